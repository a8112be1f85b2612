"""Sources of the site from the stored notebooks: `python tools/site/prepare.py OUT`.

The notebooks are copied, never changed and never run. In the copies nbdev's
directives and what only they need are gone, imports and checks are folded, links that
leave `nbs/` lead to the repository. Beside them come a page per part and the pages of
the package (`api.py`).
"""

import ast
import configparser
import json
import re
import shutil
import symtable
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from api import write_pages  # noqa: E402
from lint_nbs import COURSE, is_check, parse, source  # noqa: E402

DIRECTIVE = re.compile(r'^#\s*\|\s*(\w+).*\n?', re.M)
LINK = re.compile(r'(?<=\]\()(?!\w+:)([^)#\s]*)(#[^)\s]+)?(?=\))')
BADGE = re.compile(r'\s*\[!\[Open in Colab\].*')  # the theme has a button of its own
FENCE = re.compile(r'(^```.*?^```|`[^`\n]+`)', re.M | re.S)
HEADING = re.compile(r'^(#+) (.*)$', re.M)
MINUTES = re.compile(r'\b(\d+|five|ten|fifteen|twenty) minutes', re.I)
WORDS = dict(five=5, ten=10, fifteen=15, twenty=20)
HIDDEN = {'hide', 'default_exp'}
ON_SITE = ('.ipynb', '.png', '.jpg', '.svg')


def settings():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    return ini['DEFAULT']


def chapter_paths(nbs):
    paths = sorted(nbs.glob('*/*.ipynb'), key=lambda p: (p.parent.name, p.name))
    return [p for p in paths if '.ipynb_checkpoints' not in p.parts]


def read_titles():
    "Titles by stem of a notebook or name of a folder."
    lines = (HERE / 'titles.txt').read_text(encoding='utf-8').splitlines()
    return dict(l.split(' ', 1) for l in lines if l and l[0] != '#')


def title_of(path, titles):
    "Number and title of a chapter."
    number, name = path.stem.split('_', 1)
    return f'{number} {titles.get(path.stem, name.replace("_", " "))}'


def outside_code(text, change):
    "Change the parts of a Markdown text that are not code."
    parts = FENCE.split(text)
    parts[::2] = [change(p) for p in parts[::2]]
    return ''.join(parts)


def slug(heading):
    "The anchor of a heading, as the site makes it."
    words = re.sub(r'[^\w\s-]', '', heading.lower())
    return re.sub(r'\s', '-', words)


class Notebook:
    "A copy of a notebook on its way to a page."

    def __init__(self, path, nbs, repository):
        self.path, self.nbs, self.repository = path, nbs, repository
        self.book = json.loads(path.read_text(encoding='utf-8'))
        self.cells = self.book['cells']

    def opening(self):
        "Title, sentence, and the first words after them."
        texts = [source(c) for c in self.cells[:6] if c['cell_type'] == 'markdown']
        quote = re.search(r'^> (.*(?:\n> .*)*)', texts[0], re.M)
        return (quote[1] if quote else ''), '\n'.join(texts)

    def clean(self, title=None):
        self._code_cells()
        self._fold_checks()
        self._fold_imports()
        self._merge_folded()
        level = 1
        for cell in self.cells:
            if cell['cell_type'] == 'markdown':
                text, level = self._markdown(source(cell), level)
                cell['source'] = text
        first = self.cells[0]
        first['source'] = BADGE.sub('', first['source'])
        if title:
            first['source'] = HEADING.sub(f'# {title}', first['source'], count=1)

    def _code_cells(self):
        "Directives out, and the cells that the reader need not see."
        kept = []
        for cell in self.cells:
            if cell['cell_type'] == 'code':
                text = source(cell)
                kinds = set(DIRECTIVE.findall(text))
                if kinds & HIDDEN or not text.strip():
                    continue
                cell['source'] = DIRECTIVE.sub('', text)
                cell['exported'] = 'export' in kinds
                if 'echo' in kinds:
                    cell['metadata']['tags'] = ['remove-input']
            kept.append(cell)
        self.cells = self.book['cells'] = kept

    def _fold_checks(self):
        "Cells that check, show nothing, and make nothing that a shown cell needs."
        needed, section = set(), set(self._open_checks())
        for cell in reversed(self.cells):
            if cell['cell_type'] != 'code':
                continue
            tree = parse(cell['source'])
            made = set().union(*(names_of(n)[0] for n in tree.body))
            checks = any(is_check(n) for n in ast.walk(tree))
            shown = cell.pop('exported') or bool(cell['outputs']) or not checks
            if cell['id'] in section:
                continue
            if shown or made & needed:
                needed = needed_above(tree, needed)
            else:
                fold(cell, 'checks')

    def _fold_imports(self):
        for cell in self.cells:
            if cell['cell_type'] == 'code' and imports_most(cell):
                fold(cell, 'imports')

    def _merge_folded(self):
        "Cells that stand together behind the same line become one."
        kept = self.cells[:1]
        for cell in self.cells[1:]:
            what, before = cell['metadata'].get('mystnb'), kept[-1]
            if what and what == before['metadata'].get('mystnb'):
                before['source'] += '\n\n' + cell['source']
            else:
                kept.append(cell)
        self.cells = self.book['cells'] = kept

    def _open_checks(self):
        "Cells of the section `Checks`, which is folded as a whole."
        inside = False
        for cell in self.cells:
            text = source(cell)
            if cell['cell_type'] == 'markdown' and re.search(r'^##? ', text, re.M):
                inside = bool(re.search(r'^## Checks\s*$', text, re.M))
            if inside:
                yield cell['id']

    def _markdown(self, text, level):
        "Links that hold on the site; no heading jumps a level."

        def lift(m):
            nonlocal level
            level = min(len(m[1]), level + 1)
            return f'{"#" * level} {m[2]}'

        def change(part):
            return HEADING.sub(lift, LINK.sub(self._link, part))

        return outside_code(text, change), level

    def _link(self, m):
        target, anchor = m[1], m[2] or ''
        there = (self.path.parent / target).resolve()
        if not target or there.suffix in ON_SITE:
            return target + (anchor and '#' + slug(anchor[1:]))
        if not there.is_relative_to(ROOT):
            return m[0]
        return f'{self.repository}/{there.relative_to(ROOT).as_posix()}{anchor}'

    def write(self, out):
        out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.book, ensure_ascii=False)
        out.write_text(text, encoding='utf-8')


def names_of(node):
    "Names that a statement binds for what stands below it, and names that it needs."
    top = symtable.symtable(ast.unparse(node), 'cell', 'exec')
    made = {s.get_name() for s in top.get_symbols() if s.is_assigned()}
    used, tables = set(), [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for name in table.get_symbols():
            if name.is_referenced() and (table is top or name.is_global()):
                used.add(name.get_name())
    return made, used


def needed_above(tree, needed):
    "Names that must exist before a cell, if those `needed` must exist after it."
    for node in reversed(tree.body):
        made, used = names_of(node)
        parts = list(ast.walk(node))
        loops = [n.target for n in parts if isinstance(n, ast.For)]
        opened = [n.optional_vars for n in parts if isinstance(n, ast.withitem)]
        bound = {
            n.id
            for target in filter(None, loops + opened)
            for n in ast.walk(target)
            if isinstance(n, ast.Name)
        }
        needed = (needed - made) | (used - bound)
    return needed


def imports_most(cell):
    "Imports, and at most two simple lines such as that of a logger."
    body = parse(cell['source']).body
    others = [n for n in body if not isinstance(n, (ast.Import, ast.ImportFrom))]
    simple = all(isinstance(n, (ast.Assign, ast.Expr)) for n in others)
    few = len(others) <= min(2, len(body) - len(others) - 1)
    return bool(body) and simple and few and not cell['outputs']


def fold(cell, what):
    "The source of a cell behind a line that opens it."
    cell['metadata']['tags'] = ['hide-input']
    prompts = dict(code_prompt_show=f'Show {what}', code_prompt_hide=f'Hide {what}')
    cell['metadata']['mystnb'] = prompts


def minutes_of(stem, opening, index):
    "Minutes to read a chapter: the map of the index says it, or its opening."
    if m := re.search(rf'^\| *(\d+) *\| *\[{stem}\]', index, re.M):
        return int(m[1])
    if m := MINUTES.search(opening):
        return WORDS.get(m[1].lower()) or int(m[1])


def toctree(caption, pages):
    head = f':hidden:\n:caption: {caption}\n' if caption else ':hidden:\n'
    return f'```{{toctree}}\n{head}\n' + '\n'.join(pages) + '\n```\n'


def part_page(folder, chapters, titles):
    "A part: its chapters with minutes and sentence."
    total = sum(c['minutes'] or 0 for c in chapters)
    course = folder[0] in COURSE
    about = 'part of the course' if course else 'part of the reference'
    lines = [f'# {titles.get(folder, folder)}', '']
    known = course and all(c['minutes'] for c in chapters)
    lines += [f'A {about}' + (f': {total} minutes.' if known else '.'), '']
    for c in chapters:
        minutes = f' *({c["minutes"]} minutes)*' if c['minutes'] else ''
        lines.append(f'- [{c["title"]}]({c["path"].name}){minutes}  ')
        lines.append(f'  {c["sentence"]}')
    return '\n'.join(lines) + '\n\n' + toctree('', [c['path'].stem for c in chapters])


def nav_entry(folder, titles, chapters):
    "A part in the navigation, with its minutes if all its chapters have some."
    known = [c['minutes'] for c in chapters]
    title = titles.get(folder, folder)
    if folder[0] in COURSE and all(known):
        title += f' ({sum(known)} min)'
    return f'{title} <{folder}/index>'


def write_index(index, parts, pages, titles, out):
    "The first page, and with it the navigation."
    entries = {f: nav_entry(f, titles, chapters) for f, chapters in parts.items()}
    course = [e for f, e in entries.items() if f[0] in COURSE]
    reference = [e for f, e in entries.items() if f[0] not in COURSE]
    text = toctree('The course', course) + '\n' + toctree('The reference', reference)
    text += '\n' + toctree('The package', [f'api/{p}' for p in pages])
    cell = dict(cell_type='markdown', id='navigation', metadata={}, source=text)
    index.clean()
    index.cells.append(cell)
    index.write(out / 'index.ipynb')


def main(out):
    cfg = settings()
    nbs, repository = ROOT / cfg['nbs_path'], f'{cfg["git_url"]}/blob/{cfg["branch"]}'
    shutil.rmtree(out, ignore_errors=True)
    index = Notebook(nbs / 'index.ipynb', nbs, repository)
    course_map = '\n'.join(source(c) for c in index.cells)
    titles, parts = read_titles(), {}
    for path in chapter_paths(nbs):
        book = Notebook(path, nbs, repository)
        sentence, opening = book.opening()
        title = title_of(path, titles)
        minutes = minutes_of(path.stem, opening, course_map)
        chapter = dict(path=path, title=title, sentence=sentence, minutes=minutes)
        parts.setdefault(path.parent.name, []).append(chapter)
        book.clean(title)
        book.write(out / path.relative_to(nbs))
    for picture in nbs.rglob('*.png'):
        shutil.copy(picture, out / picture.relative_to(nbs))
    for folder, chapters in parts.items():
        page = part_page(folder, chapters, titles)
        (out / folder / 'index.md').write_text(page, encoding='utf-8')
    chapters = [c for part in parts.values() for c in part]
    links = {c['path'].relative_to(nbs).as_posix(): c['title'] for c in chapters}
    pages = write_pages(ROOT / cfg['lib_path'], out / 'api', links)
    write_index(index, parts, pages, titles, out)
    print(len(chapters), 'chapters prepared in', out)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
