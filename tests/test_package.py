"""Packaging: what the notebooks cannot see of their own package."""

import ast
import configparser
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT / 'cxrclip_nb'


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (a.name.split('.')[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split('.')[0]


def test_package_needs_neither_nbdev_nor_fastcore():
    for p in LIB.glob('*.py'):
        if p.name != '_modidx.py':
            assert not {'nbdev', 'fastcore', 'execnb'} & set(imports(p)), p.name


def test_version_and_command_are_those_of_settings():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini')
    import cxrclip_nb

    assert (
        cxrclip_nb.__version__
        == ini['DEFAULT']['version']
        == metadata.version('cxrclip_nb')
    )
    assert {
        e.name
        for e in metadata.entry_points(group='console_scripts')
        if e.value.startswith('cxrclip_nb')
    } == {
        'cxrclip-train',
        'cxrclip-prepare',
        'cxrclip-translate',
        'cxrclip-convert',
        'cxrclip-evaluate',
        'cxrclip-ablate',
    }


def test_every_module_has_a_notebook_and_every_notebook_a_module():
    made = {
        p.stem.split('_', 1)[1]
        for p in (ROOT / 'nbs').glob('[0-8]*.ipynb')
        if 'default_exp' in p.read_text(encoding='utf-8')
    }
    assert made == {p.stem for p in LIB.glob('[a-z]*.py')}


def test_help_lists_every_option():
    from dataclasses import fields

    from cxrclip_nb.training.config import TrainConfig

    text = subprocess.run(
        [sys.executable, '-m', 'cxrclip_nb.training.loop', '--help'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not [f.name for f in fields(TrainConfig) if f'--{f.name}' not in text]
