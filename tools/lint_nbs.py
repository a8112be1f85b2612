#!/usr/bin/env python
"""What a program can check of a notebook's form: `python tools/lint_nbs.py [nbs/X.ipynb ...]`. Exit 1 if something is wrong.

A course notebook opens with a title and one sentence, says where it stands, shows before it exports, tests at least half of its
demonstrations, and stores its pictures. Public names carry a docstring and a comment for each parameter; imports inside the package
point to lower numbers only."""

import ast
import configparser
import json
import re
import sys
from pathlib import Path

TOURS = ('index', '64_trust', '80_tour')  # export nothing
LOOKS_AHEAD = {'results': {'zeroshot', 'retrieval'}}  # a run ends with its evaluation
LINES, OUTPUT_KB, PROSE, TESTED, PICTURES = 25, 200, 0.6, 0.5, 3
# films are the point of these
LARGE = {
    '11_phantoms': 420,
    '22_batches': 240,
    '61_retrieval': 300,
    '63_space': 300,
    '80_tour': 400,
    '21_augment': 300,
    '12_films': 300,
}
TEST = re.compile(r'\b(assert|test_\w+|expect_fail|raises)\b')
PATH = re.compile(r"""(?:^|[\s"'(=:])/(?:home|work|tmp|root|Users|var|opt)/""")
FLAGS = set()


def directives(src):
    return set(re.findall(r'^#\s*\|\s*([\w:]+)', src, re.M))


def exports(src):
    return bool(directives(src) & {'export', 'exporti', 'exports'})


def shown(output):
    return ''.join(output.get('text', [])) + ''.join(
        output.get('data', {}).get('text/plain', [])
    )


def is_export_end(src):
    return 'nbdev_export(' in src


def code_faults(stem, i, cell):
    src = cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])
    where, lines = f'{stem}, cell {i}', src.splitlines()
    if len(lines) > LINES:
        yield f'{where}: {len(lines)} lines (at most {LINES})'
    if exports(src) and directives(src) & FLAGS:
        yield f'{where}: a test flag on an exported cell'
    if exports(src) and re.search(r'^\s*[%!]', src, re.M):
        yield f'{where}: a magic in an exported cell breaks the export'
    first = next(
        (k for k, l in enumerate(lines) if l.strip() and not re.match(r'#\s*\|', l)),
        len(lines),
    )
    if any(re.match(r'#\s*\|', l) for l in lines[first:]):
        yield f'{where}: a directive below other lines is ignored'
    if re.search(r'^#\s*\|\s*eval:\s*false', src, re.M):
        yield f'{where}: eval: false never runs'
    if "filterwarnings('ignore')" in src:
        yield f'{where}: hides warnings'
    if PATH.search(src):
        yield f'{where}: an absolute path'
    for o in cell.get('outputs', []):
        if o['output_type'] == 'error':
            yield f'{where}: stores an error'
        if PATH.search(shown(o)):
            yield f'{where}: an output names a path of the machine that made it'
    if exports(src):
        yield from public_faults(where, src)


def public_faults(where, src):
    try:
        tree = ast.parse(src)
    except SyntaxError as e:
        yield f'{where}: {e}'
        return
    for node in tree.body:
        if not isinstance(
            node, (ast.FunctionDef, ast.ClassDef)
        ) or node.name.startswith('_'):
            continue
        if not ast.get_docstring(node):
            yield f'{where}: {node.name} has no docstring'
        if isinstance(node, ast.FunctionDef):
            for a in node.args.args + node.args.kwonlyargs:
                line = src.splitlines()[a.lineno - 1]
                if '#' not in line and len(node.args.args) > 0 and a.annotation is None:
                    yield f'{where}: {node.name}({a.arg}) has neither type nor comment'


def import_faults(stem, module, order, src):
    try:
        body = ast.parse(src).body
    except SyntaxError:
        return  # public_faults says so
    for name in (
        n.module.split('.')[1]
        for n in body
        if isinstance(n, ast.ImportFrom) and (n.module or '').startswith('cxrclip_nb.')
    ):
        if name not in order:
            yield f'{stem}: imports cxrclip_nb.{name}, which no notebook makes'
        elif order[name] >= stem and name not in LOOKS_AHEAD.get(module, ()):
            yield f'{stem}: imports {name}, which comes later'


def shape_faults(stem, nb, code, md):
    src = [
        c['source'] if isinstance(c['source'], str) else ''.join(c['source'])
        for c in code
    ]
    head = ''.join(nb['cells'][0]['source'])
    if not re.match(r'# \S+.*\n\n> \S', head):
        yield f'{stem}: must open with "# name", an empty line and "> one sentence"'
    demo = [
        (c, s)
        for c, s in zip(code, src)
        if not exports(s)
        and not is_export_end(s)
        and not s.startswith('#| default_exp')
        and not re.search(r'^#\|\s*hide', s)
    ]
    tested = sum(bool(TEST.search(s)) for _, s in demo)
    if demo and tested < TESTED * len(demo) and stem != 'index':
        yield (
            f'{stem}: {tested} of {len(demo)} demonstrations test something (at '
            f'least {TESTED:.0%})'
        )
    if len(md) < PROSE * len(code):
        yield (
            f'{stem}: {len(md)} prose cells for {len(code)} code cells (at '
            f'least {PROSE:.0%})'
        )
    pictures = sum(
        any(
            'image/png' in o.get('data', {}) or 'image/jpeg' in o.get('data', {})
            for o in c.get('outputs', [])
        )
        for c in code
    )
    if stem != 'index' and pictures < PICTURES:
        yield f'{stem}: {pictures} pictures stored (at least {PICTURES})'
    size = sum(len(json.dumps(c.get('outputs', []))) for c in code) / 1024
    if size > LARGE.get(stem, OUTPUT_KB):
        yield f'{stem}: {size:.0f} KB of outputs (at most {LARGE.get(stem, OUTPUT_KB)})'
    if stem not in TOURS:
        if src[0].strip() != f'#| default_exp {stem.split("_", 1)[1]}':
            yield f'{stem}: first code cell must be its default_exp alone'
        if not is_export_end(src[-1]):
            yield f'{stem}: must end with nbdev_export()'
        if not any('## Recap' in ''.join(c['source']) for c in md):
            yield f'{stem}: no recap'


def notebook_faults(path, order):
    nb = json.loads(path.read_text(encoding='utf-8'))
    stem = path.stem
    code = [
        c
        for c in nb['cells']
        if c['cell_type'] == 'code' and ''.join(c['source']).strip()
    ]
    md = [c for c in nb['cells'] if c['cell_type'] == 'markdown']
    yield from shape_faults(stem, nb, code, md)
    module = stem.split('_', 1)[-1]
    for i, c in enumerate(nb['cells']):
        if c['cell_type'] != 'code':
            continue
        yield from code_faults(stem, i, c)
        src = ''.join(c['source'])
        if exports(src):
            yield from import_faults(stem, module, order, src)


if __name__ == '__main__':
    root = Path(__file__).resolve().parent.parent
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(root / 'settings.ini')
    FLAGS |= set(ini['DEFAULT']['tst_flags'].split())
    every = sorted((root / 'nbs').glob('*.ipynb'))
    order = {p.stem.split('_', 1)[1]: p.stem for p in every if '_' in p.stem}
    faults = [
        f
        for p in ([Path(a) for a in sys.argv[1:]] or every)
        for f in notebook_faults(p, order)
    ]
    print(*faults, sep='\n') if faults else print(f'{len(every)} notebooks in form')
    sys.exit(bool(faults))
