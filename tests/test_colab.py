"The first cell of every chapter: nothing here, the whole project on Colab."

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(ROOT.glob('nbs/*/*.ipynb'))


def first_cell(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return ''.join(next(c for c in cells if c['cell_type'] == 'code')['source'])


class Shell:
    "Notes what a cell asks of IPython."

    def __init__(self):
        self.asked = []

    def system(self, command):
        self.asked.append(command)

    def run_line_magic(self, name, line):
        self.asked.append(f'%{name} {line}')


def run_cell(path):
    shell = Shell()
    exec(first_cell(path), {'get_ipython': lambda: shell})
    return shell.asked


@pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
def test_first_cell(path, monkeypatch):
    assert run_cell(path) == []
    monkeypatch.setitem(sys.modules, 'google.colab', ModuleType('google.colab'))
    clone, run = run_cell(path)
    assert clone.startswith('git clone') and clone.endswith('~/cxrclip_nb')
    program, folder = run.removeprefix('%run ~/cxrclip_nb/').split()
    assert (ROOT / program).is_file()
    assert (ROOT / 'nbs' / folder / path.name) == path


def test_colab_program(monkeypatch):
    "It installs the clone without another reader of notebooks, and goes there."
    commands, before = [], os.getcwd()
    monkeypatch.setattr(subprocess, 'run', lambda c, **_: commands.append(c))
    monkeypatch.setattr(sys, 'argv', ['colab.py', '3_losses'])
    elsewhere = [p for p in sys.path if p != str(ROOT)]
    monkeypatch.setattr(sys, 'path', elsewhere)
    try:
        runpy.run_path(str(ROOT / 'tools/colab.py'), run_name='__main__')
        assert Path.cwd() == ROOT / 'nbs/3_losses'
    finally:
        os.chdir(before)
    (command,) = commands
    names = {c.split('>')[0] for c in command}
    assert str(ROOT) in command and {'nbdev', 'fastcore', 'pydicom'} <= names
    assert not names & {'jupyterlab', 'ipykernel'}
    assert sys.path[0] == str(ROOT)
