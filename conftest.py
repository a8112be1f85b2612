"""Notebooks as pytest items: `pytest -k infonce -x`.

Each runs as `nbdev_test` runs it (same runner, directives and flags). Flags of
settings.ini are skipped unless asked for: `pytest --flags "slow"`.
"""

import sys
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption(
        '--flags',
        default='',
        help='cells with these test flags run too, e.g. "slow cuda"',
    )


def pytest_collect_file(parent, file_path):
    notebooks = Path(__file__).parent / 'nbs'
    inside = notebooks in file_path.parents
    hidden = '.ipynb_checkpoints' in file_path.parts
    if file_path.suffix == '.ipynb' and inside and not hidden:
        return NotebookFile.from_parent(parent, path=file_path)


class NotebookFile(pytest.File):
    def collect(self):
        yield NotebookItem.from_parent(self, name=self.path.stem)


class NotebookError(Exception):
    "A cell of the notebook failed."


class NotebookItem(pytest.Item):
    def runtest(self):
        from nbdev.config import get_config
        from nbdev.test import test_nb

        cfg, argv = get_config(), sys.argv
        try:
            sys.argv = ['nbdev_test']
            ok, _ = test_nb(
                self.path,
                skip_flags=cfg.tst_flags.split(),
                force_flags=self.config.getoption('--flags').split(),
                basepath=cfg.config_path,
            )
        finally:
            sys.argv = argv
        if not ok:
            raise NotebookError(self.path.name)

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, NotebookError):
            return (
                f'{excinfo.value}: a cell failed, its traceback is above in the '
                'captured stderr'
            )
        return super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, f'notebook {self.path.stem}'
