"""Packaging: what the notebooks cannot see of their own package."""

import ast
import configparser
import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import pytest

import cxrclip_nb
from cxrclip_nb.training.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
LIB = ROOT / 'cxrclip_nb'
MODULES = [p for p in LIB.rglob('*.py') if p.name not in ('__init__.py', '_modidx.py')]
COMMANDS = 'ablate ask convert embed evaluate prepare train translate'.split()
PUBLIC = sorted(cxrclip_nb.__all__)


def imported(path):
    "Top-level packages that a module imports."
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (a.name.split('.')[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split('.')[0]


def settings():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini')
    return ini['DEFAULT']


def test_package_needs_neither_nbdev_nor_fastcore():
    for path in MODULES:
        assert not {'nbdev', 'fastcore', 'execnb'} & set(imported(path)), path.name


def test_version_and_commands_are_those_of_settings():
    version = settings()['version']
    assert cxrclip_nb.__version__ == version == metadata.version('cxrclip_nb')
    scripts = metadata.entry_points(group='console_scripts')
    ours = {e.name: e for e in scripts if e.value.startswith('cxrclip_nb')}
    assert sorted(ours) == [f'cxrclip-{c}' for c in COMMANDS]
    for command in ours.values():
        assert callable(command.load())


def test_every_module_comes_from_a_notebook():
    owner = re.compile(r'#\| default_exp (\S+)"')
    texts = [p.read_text(encoding='utf-8') for p in (ROOT / 'nbs').rglob('*.ipynb')]
    made = {m for text in texts for m in owner.findall(text)}
    there = {'.'.join(p.relative_to(LIB).with_suffix('').parts) for p in MODULES}
    assert made == there


def test_subpackages_are_empty_boxes():
    for path in LIB.glob('*/__init__.py'):
        assert not path.read_text().strip(), path


@pytest.mark.parametrize('name', PUBLIC)
def test_public_name_exists_and_says_what_it_is(name):
    public = getattr(cxrclip_nb, name)
    own = public.__doc__
    assert own and own.strip(), name
    assert not own.startswith(f'{name}('), (
        'the signature of a dataclass is no docstring'
    )
    assert public.__module__.startswith('cxrclip_nb.')


def test_names_are_listed_and_cost_nothing_before_use():
    heavy = 'torch timm transformers pandas numpy matplotlib'.split()
    code = (
        'import sys, cxrclip_nb; print(*dir(cxrclip_nb)); '
        f'print(*[m for m in {heavy} if m in sys.modules])'
    )
    run = [sys.executable, '-c', code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    listed, loaded = done.stdout.split('\n')[:2]
    assert set(PUBLIC) <= set(listed.split())
    assert loaded == ''


def test_a_name_is_the_function_and_not_the_module():
    importlib.import_module('cxrclip_nb.data.prepare')
    importlib.import_module('cxrclip_nb.data.leakage')
    assert callable(cxrclip_nb.prepare)
    assert callable(cxrclip_nb.leakage)


def test_errors_of_the_user_have_one_parent():
    kinds = [n for n in PUBLIC if n.endswith('Error')]
    assert kinds == [
        'CXRError',
        'CheckpointError',
        'FilmError',
        'LabelError',
        'StudyError',
    ]
    for name in kinds:
        assert issubclass(getattr(cxrclip_nb, name), cxrclip_nb.CXRError)
    assert issubclass(cxrclip_nb.CXRError, ValueError)


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module('cxrclip_nb.training.loop').main(['--help'])
    text = capsys.readouterr().out
    assert not [f.name for f in fields(TrainConfig) if f'--{f.name}' not in text]


# command -> the module of its `main`, and what does the work there
WORK = dict(
    ablate=('lab.ablation', 'ablate'),
    ask=('evaluation.ask', 'ask_command'),
    convert=('model.released', 'load_released'),
    embed=('evaluation.embed', 'embed_command'),
    evaluate=('evaluation.benchmarks', 'evaluate_command'),
    prepare=('data.prepare', 'prepare'),
    train=('training.loop', 'train'),
    translate=('data.rewording', 'translate_table'),
)


class Reached(Exception):
    "The words of a command were understood, and its work would begin."


@pytest.mark.parametrize('command', COMMANDS)
def test_help_has_groups_and_examples_that_work(command, capsys, monkeypatch):
    place, work = WORK[command]
    module = importlib.import_module(f'cxrclip_nb.{place}')
    with pytest.raises(SystemExit) as e:
        module.main(['--help'])
    assert e.value.code == 0
    text, _, examples = capsys.readouterr().out.rpartition('\nexample')
    groups = re.findall(r'^([a-z ]+):$', text, re.M)
    assert groups[0] == 'options' and len(groups) >= 3, groups
    assert '--quiet' in text
    examples = [shlex.split(line) for line in examples.splitlines()[1:]]
    assert examples

    def reached(*args, **options):
        raise Reached

    monkeypatch.setattr(module, work, reached)
    for name, *words in examples:
        assert name == f'cxrclip-{command}'
        for more in ([], ['--quiet']):
            with pytest.raises(Reached):
                module.main(words + more)
            printed = capsys.readouterr().out
            assert not (printed and more), printed
