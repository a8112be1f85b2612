"The site's tools: what becomes of a notebook, and which faults of a page are found."

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / 'tools'
sys.path[:0] = [str(TOOLS), str(TOOLS / 'site')]

import check_site  # noqa: E402
import prepare  # noqa: E402

PAGE = """<html><body><article><p id="here">text</p>
<a href="#here">good</a> <a href="other.html#there">good</a>
{}</article></body></html>"""


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    out = tmp_path_factory.mktemp('site') / 'source'
    subprocess.run([sys.executable, TOOLS / 'site' / 'prepare.py', out], check=True)
    return out


def code_cells(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [c for c in cells if c['cell_type'] == 'code']


def test_directives_are_gone_and_outputs_stay(sources):
    pictures = 0
    for path in sources.rglob('*.ipynb'):
        for cell in code_cells(path):
            assert not cell['source'].startswith('#|'), path.stem
            assert 'nbdev_export' not in cell['source'], path.stem
            pictures += sum('image/png' in o.get('data', {}) for o in cell['outputs'])
    assert pictures > 200


CELLS = [
    '# toy\n\n> A sentence. See [the data](../../data/README.md#x).',
    '#| default_exp toy',
    '#| hide\nbegin_chapter()',
    '#| export\nimport math',
    'import re\nimport os\n\nlogger = 1',
    '#| export\ndef double(x):\n    assert x\n    return 2 * x',
    'a = double(1)\nassert a == 2',
    'b = double(2)\nassert b == 4',
    'print(a)',
    '#### Too deep',
    '## Checks',
    'assert double(3) == 6',
]


def test_what_is_folded_and_what_is_shown(tmp_path):
    nbs = prepare.ROOT / 'nbs'
    cells = []
    for k, text in enumerate(CELLS):
        kind = 'markdown' if text.startswith(('# ', '##')) else 'code'
        cell = dict(cell_type=kind, id=str(k), metadata={}, source=text, outputs=[])
        cells.append(cell)
    path = tmp_path / 'toy.ipynb'
    path.write_text(json.dumps(dict(cells=cells, metadata={})), encoding='utf-8')
    book = prepare.Notebook(path, nbs, 'https://example.org/blob')
    book.path = nbs / '1_pairs' / 'toy.ipynb'
    book.clean('00 Toy')
    assert book.cells[0]['source'].startswith('# 00 Toy\n\n> A sentence.')
    assert '(https://example.org/blob/data/README.md#x)' in book.cells[0]['source']
    assert book.cells[-3]['source'] == '## Too deep'
    code = [c for c in book.cells if c['cell_type'] == 'code']
    folded = [c['source'] for c in code if c['metadata'].get('tags') == ['hide-input']]
    # imports as one; of the checks that which makes nothing that is used below
    assert folded == ['import math\n\nimport re\nimport os\n\nlogger = 1', CELLS[7]]
    shown = [c['source'] for c in code if 'tags' not in c['metadata']]
    assert shown == [CELLS[5].split('\n', 1)[1], CELLS[6], CELLS[8], CELLS[11]]


def test_comments_of_parameters_reach_the_reference(sources):
    page = (sources / 'api' / 'losses.md').read_text(encoding='utf-8')
    assert '{py:function} info_nce(a, b, scale, targets=None' in page
    assert r':param b: `Tensor`, \[B, D\] unit-norm; a\[i\] belongs to b\[i\]' in page
    assert ':returns: `Tensor`, ' in page


def faults_of(folder, body):
    (folder / 'page.html').write_text(PAGE.format(body), encoding='utf-8')
    (folder / 'other.html').write_text('<p id="there">', encoding='utf-8')
    return list(check_site.link_faults(folder.resolve()))


def test_broken_links_are_found(tmp_path):
    assert faults_of(tmp_path, '') == []
    body = '<a href="#no"></a><a href="other.html#no"></a><img src="no.png">'
    assert len(faults_of(tmp_path, body)) == 3
    far = '<script src="https://cdn.example.org/x.js"></script>'
    assert 'loaded from the network' in faults_of(tmp_path, far)[0]


@pytest.mark.skipif(not check_site.find_browser(), reason='no Chromium here')
def test_faults_of_a_drawn_page_are_found(tmp_path):
    browser = check_site.find_browser()
    faults_of(tmp_path, '')
    assert list(check_site.browser_faults(tmp_path, browser)) == []
    wide = '<div style="width:900px">wide</div>'
    faults_of(tmp_path, wide + '<img src="no.png"><p>left: $x^2$</p>')
    found = '\n'.join(check_site.browser_faults(tmp_path, browser))
    assert found.count('px wide in') == 1  # of the phone
    assert found.count('picture does not load') == 2
    assert found.count('formula left as text') == 2
