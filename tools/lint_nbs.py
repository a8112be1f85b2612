#!/usr/bin/env python
"""What no other tool checks of a notebook: `python tools/lint_nbs.py [nbs/X.ipynb
...]`.

Directives that would be ignored, tagged cells that do not ask `need`, stored errors
and machine paths, public names without docstring or docments, links that lead
nowhere, cells that test and plot at once, demonstrations too long for one look,
numbers out of order; what a chapter must open with: title and sentence, the badge and
the first cell of Colab, in the reference **For** and **Gives**. Lines, names and
imports are ruff's (`ruff.toml`), layers import-linter's. Exit 1 if anything is wrong.
"""

import ast
import configparser
import json
import re
import sys
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COURSE = '01234'  # parts that are read from top to bottom; all others are reference
COLAB = 'https://colab.research.google.com'
MOST = 12  # statements of a demonstration cell, checks and imports not counted
CHECK_CALL = re.compile(r'test_(eq|ne|close|fail|is|shuffled|stdout|warns)|is_close')
DRAW = re.compile(
    r'plt\.(?!close|rcParams)\w+|sns\.\w+|show_\w+|[\w.]+\.plot|ax\w*(\[.*\])?\.'
    r'(imshow|bar\w*|scatter|set\w*|hist\w*|fill\w*|legend|text|ax[vh]line|grid|'
    r'errorbar|contour\w*|step|pcolor\w*|add_\w+|annotate|tick_params)'
)
PATH = re.compile(r"""(?:^|[\s"'(=:])/(?:home|work|tmp|root|Users|var|opt)/""")
DIRECTIVE = re.compile(r'#\s*\|')
EXPORT = re.compile(r'^#\s*\|\s*exports?i?\b', re.M)
LINK = re.compile(r'\]\(([^)#\s]+?\.(?:ipynb|md|csv|py|jsonl))(?:#[^)]*)?\)')


def source(cell):
    return ''.join(cell['source'])


def parse(src):
    "The cell's syntax tree without its magics."
    lines = src.splitlines()
    return ast.parse('\n'.join('' if re.match(r'\s*[%!]', l) else l for l in lines))


def tags(src):
    "Words of the directives on top of a cell."
    return set(re.findall(r'^#\s*\|\s*([\w:]+)', src, re.M))


def is_check(node):
    "An assert, a `test_...` call, or a block that expects an error."
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.With):
        names = {ast.unparse(i.context_expr).split('(')[0] for i in node.items}
        return bool(names & {'expect_fail', 'pytest.raises'})
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return is_call and bool(CHECK_CALL.fullmatch(ast.unparse(node.value.func)))


def draws(node):
    "Does anything in a cell draw, outside of its checks?"
    if is_check(node):
        return False
    if isinstance(node, ast.Call) and DRAW.fullmatch(ast.unparse(node.func)):
        return True
    return any(draws(child) for child in ast.iter_child_nodes(node))


def steps(nodes):
    "Statements outside functions that are neither checks nor imports."
    skipped = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
    count = 0
    for node in nodes:
        if isinstance(node, skipped) or is_check(node):
            continue
        count += 1
        for part in ('body', 'orelse', 'finalbody'):
            count += steps(getattr(node, part, []))
    return count


def directive_faults(src, flags):
    lines = src.splitlines()
    kinds = tags(src)
    code = [k for k, l in enumerate(lines) if l.strip() and not DIRECTIVE.match(l)]
    if code and any(DIRECTIVE.match(l) for l in lines[code[0] :]):
        yield 'a directive below other lines is ignored'
    if re.search(r'^#\s*\|\s*eval:\s*false', src, re.M):
        yield 'eval: false never runs'
    if EXPORT.search(src) and kinds & flags:
        yield 'a test flag on an exported cell'
    if EXPORT.search(src) and re.search(r'^\s*[%!]', src, re.M):
        yield 'a magic in an exported cell breaks the export'
    for kind in kinds & flags:
        if f"need('{kind}'" not in src:
            yield f"a cell tagged {kind} must begin with if need('{kind}'):"
    if not kinds & flags and re.search(r"^if need\('", src, re.M):
        yield 'a cell that asks `need` must carry the tag'


def content_faults(cell, src):
    if "filterwarnings('ignore')" in src:
        yield 'hides warnings'
    if PATH.search(src):
        yield 'an absolute path'
    for out in cell.get('outputs', []):
        text = ''.join(out.get('text', []))
        text += ''.join(out.get('data', {}).get('text/plain', []))
        if out['output_type'] == 'error':
            yield 'stores an error'
        if PATH.search(text):
            yield 'an output names a path of the machine that made it'


def documented(arg, lines):
    "Has a parameter a type, or a comment on its line or the line above?"
    here, above = lines[arg.lineno - 1], lines[arg.lineno - 2].strip()
    return arg.annotation is not None or '#' in here or above.startswith('#')


def public_faults(tree, src):
    lines = src.splitlines()
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        if node.name.startswith('_'):
            continue
        if not ast.get_docstring(node):
            yield f'{node.name} has no docstring'
        if isinstance(node, ast.FunctionDef):
            for arg in node.args.args + node.args.kwonlyargs:
                if not documented(arg, lines):
                    yield f'{node.name}({arg.arg}) has neither type nor comment'


def demonstration_faults(tree):
    tests = any(is_check(n) for n in ast.walk(tree))
    if tests and draws(tree):
        yield 'tests and plots: give each a cell of its own'
    if (n := steps(tree.body)) > MOST:
        yield f'{n} statements in a demonstration (at most {MOST}): cut it at a seam'


def code_faults(cell, flags):
    src = source(cell)
    yield from directive_faults(src, flags)
    yield from content_faults(cell, src)
    try:
        tree = parse(src)
    except SyntaxError as e:
        yield f'{e}'
        return
    if EXPORT.search(src):
        yield from public_faults(tree, src)
    elif 'hide' not in tags(src):
        yield from demonstration_faults(tree)


def shape_faults(cells, stem):
    if not re.match(r'# \S+.*\n\n> \S', source(cells[0])):
        yield 'must open with "# name", an empty line and "> one sentence"'
    code = '\n'.join(source(c) for c in cells if c['cell_type'] == 'code')
    if stem != 'index' and 'begin_chapter()' not in code:
        yield 'its first hidden cell must call begin_chapter()'
    if EXPORT.search(code) and 'nbdev_export()' not in code:
        yield 'must end with nbdev_export()'


def colab_badge(path, ini):
    "The last line of a chapter's title cell."
    page = path.resolve().relative_to(ROOT).as_posix()
    place = f'{ini["user"]}/{ini["repo"]}/blob/{ini["branch"]}/{page}'
    picture = f'![Open in Colab]({COLAB}/assets/colab-badge.svg)'
    return f'[{picture}]({COLAB}/github/{place})'


def colab_cell(path, ini):
    "A chapter's first cell of code: it does nothing but on Colab."
    clone = f'git clone -q --depth 1 {ini["git_url"]} ~/{ini["repo"]}'
    run = f'~/{ini["repo"]}/tools/colab.py {path.resolve().parent.name}'
    return (
        "#| hide\nimport sys\n\nif 'google.colab' in sys.modules:\n"
        f"    run = get_ipython().system\n    run('{clone}')\n"
        f"    get_ipython().run_line_magic('run', '{run}')"
    )


def colab_faults(path, cells, ini):
    badge, first = colab_badge(path, ini), colab_cell(path, ini)
    if not source(cells[0]).endswith('\n\n' + badge):
        yield f'its title cell must end with an empty line and {badge}'
    if source(cells[1]) != first:
        yield f'its second cell must be\n{first}'


def opening_faults(path, cells):
    "Who looks something up is told first whether this is the place."
    if path.parent.name[0] in COURSE:
        return
    texts = [source(c) for c in cells[:6] if c['cell_type'] == 'markdown']
    for line in ('**For**: ', '**Gives**: '):
        if not any(l.startswith(line) for t in texts for l in t.splitlines()):
            yield f'its first cells need a line that begins with {line}'


def notebook_faults(path, ini):
    flags = set(ini['tst_flags'].split())
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    faults = list(shape_faults(cells, path.stem))
    if path.stem != 'index':
        faults += colab_faults(path, cells, ini)
        faults += opening_faults(path, cells)
    for fault in faults:
        yield f'{path.stem}: {fault}'
    for i, cell in enumerate(cells):
        if cell['cell_type'] == 'code':
            for fault in code_faults(cell, flags):
                yield f'{path.stem}, cell {i}: {fault}'
        else:
            for link in LINK.findall(source(cell)):
                there = path.parent / urllib.parse.unquote(link)
                if '://' not in link and not there.exists():
                    yield f'{path.stem}, cell {i}: the link {link} leads nowhere'


def order_faults(paths):
    "Numbers are unique, rise with the folders, and their tens digit is the part."
    numbered = [p for p in paths if p.stem != 'index']
    names = [p.name for p in numbered]
    if names != sorted(names):
        yield 'the order of the folders is not that of the numbers'
    numbers = [n.split('_')[0] for n in names]
    for n in sorted({n for n in numbers if numbers.count(n) > 1}):
        yield f'number {n} is used twice'
    for p in numbered:
        if p.name[0] != p.parent.name[0]:
            yield f'{p.stem} stands in {p.parent.name}'


def main(argv):
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini')
    every = sorted((ROOT / 'nbs').rglob('*.ipynb'), key=lambda p: str(p.parent))
    every = [p for p in every if '.ipynb_checkpoints' not in p.parts]
    every.sort(key=lambda p: (str(p.parent), p.name))
    paths = [Path(a) for a in argv] or every
    faults = [f for p in paths for f in notebook_faults(p, ini['DEFAULT'])]
    faults += order_faults(every)
    print(*(faults or [f'{len(paths)} notebooks in form']), sep='\n')
    return bool(faults)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
