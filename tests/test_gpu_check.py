"""`tools/gpu_check.py` with toys on the CPU: sections run, alone, and are written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / 'tools' / 'gpu_check.py'
FIGURE = dict(
    cells='cells',
    precision='gradient_cosine',
    speed='studies_per_s',
    released='times',
    ways='times',
    loss='ms',
    waits='count',
    loader='waiting',
    nccl='ok',
)


def check(folder, *sections):
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    command = [sys.executable, str(TOOL), '--small', '--out', str(folder)]
    done = subprocess.run(
        [*command, '--only', *sections], env=env, capture_output=True, text=True
    )
    report = json.loads((folder / 'check.json').read_text())
    return done, report['sections'], (folder / 'check.md').read_text()


def test_every_section(tmp_path):
    done, sections, page = check(tmp_path, *FIGURE)
    assert done.returncode == 0, page
    assert list(sections) == list(FIGURE)
    for name, figure in FIGURE.items():
        assert sections[name]['rows'], name
        assert all(row[figure] is not None for row in sections[name]['rows']), name
        assert f'## {name} (' in page


def test_a_section_that_fails_is_named_and_others_go_on(tmp_path):
    (tmp_path / 'loader').write_text('where the loader wants a folder')
    done, sections, page = check(tmp_path, 'loader', 'waits')
    assert done.returncode == 1
    assert sections['loader']['error'] and not sections['waits']['error']
    assert 'loader (' in page and 'FAILED' in page


def test_no_card():
    env = dict(os.environ, CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(
        [sys.executable, str(TOOL)], env=env, capture_output=True, text=True
    )
    if done.returncode == 0:
        pytest.fail('it went on without a card')
    assert '--small runs toys on the CPU' in done.stderr
