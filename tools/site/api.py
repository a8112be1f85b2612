"""Pages of the reference from docstrings and docments; nothing is imported or run.

A parameter's meaning is the comment on its line or on the lines above it; autodoc
would lose it.
"""

import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

SECTION = re.compile(r'^(Raises|Returns|Source): ', re.M)
CHAPTER = re.compile(r'^# %% (?:\.\./)+nbs/(\S+\.ipynb)', re.M)
ARGUMENTS = ('posonlyargs', 'args', 'kwonlyargs')


@dataclass
class Parameter:
    name: str
    kind: str = ''  # annotation
    default: str = ''
    text: str = ''


@dataclass
class Module:
    path: Path
    name: str  # cxrclip_nb.losses.contrastive
    text: str = ''
    chapters: list = field(default_factory=list)
    names: list = field(default_factory=list)  # (name, node), as in `__all__`
    comments: dict = field(default_factory=dict)  # line -> (comment, alone there?)


def comments_of(source):
    "Comment of each line, and whether nothing else stands there."
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = (token.string.lstrip('# '), alone)
    return found


def read_module(path, root):
    "A module's public names with their syntax trees, in the order of `__all__`."
    source = path.read_text(encoding='utf-8')
    tree = ast.parse(source)
    name = '.'.join(path.relative_to(root).with_suffix('').parts)
    nodes, public = {}, []
    for node in tree.body:
        for bound in _bound(node):
            nodes[bound] = node
            if bound == '__all__':
                public = ast.literal_eval(node.value)
    chapters = list(dict.fromkeys(CHAPTER.findall(source)))
    names = [
        (n, nodes[n]) for n in dict.fromkeys(public) if n in nodes and n != 'logger'
    ]
    text = ast.get_docstring(tree) or ''
    return Module(path, name, text, chapters, names, comments_of(source))


def _bound(node):
    "Names that a statement of a module binds."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.AugAssign):  # it had its name before
        return []
    targets = getattr(node, 'targets', [getattr(node, 'target', None)])
    return [t.id for t in targets if isinstance(t, ast.Name)]


def comment_on(module, first, last):
    "The comment of lines first to last, or of the lines above them."
    behind = [
        module.comments[n][0] for n in range(first, last + 1) if n in module.comments
    ]
    if behind:
        return ' '.join(behind)
    above, line = [], first - 1
    while line in module.comments and module.comments[line][1]:
        above.insert(0, module.comments[line][0])
        line -= 1
    return ' '.join(above)


def parameters(module, function):
    "The parameters of a function, `self` left out."
    given = function.args
    plain = [a for part in ARGUMENTS[:2] for a in getattr(given, part)]
    defaults = [None] * (len(plain) - len(given.defaults)) + given.defaults
    pairs = list(zip(plain, defaults))
    if given.vararg:
        pairs.append((given.vararg, None))
    pairs += zip(given.kwonlyargs, given.kw_defaults)
    if given.kwarg:
        pairs.append((given.kwarg, None))
    stars = {given.vararg: '*', given.kwarg: '**'}
    for arg, default in pairs:
        if arg.arg in ('self', 'cls'):
            continue
        yield Parameter(
            stars.get(arg, '') + arg.arg,
            ast.unparse(arg.annotation) if arg.annotation else '',
            ast.unparse(default) if default else '',
            comment_on(module, arg.lineno, (default or arg).end_lineno),
        )


def fields_of(module, cls):
    "Annotated names in the body of a class: the fields of a dataclass or tuple."
    for node in cls.body:
        if not isinstance(node, ast.AnnAssign) or node.target.id.startswith('_'):
            continue
        default, text = node.value, comment_on(module, node.lineno, node.end_lineno)
        if isinstance(default, ast.Call) and len(default.args) > 1:
            default, told = default.args[:2]  # an option with its help
            text = ast.literal_eval(told) if isinstance(told, ast.Constant) else text
        yield Parameter(
            node.target.id,
            ast.unparse(node.annotation),
            ast.unparse(default) if default else '',
            text,
        )


def returned(module, function, told):
    "Type and meaning of what a function returns; `told` is the docstring's word."
    kind = function.returns
    if kind is None or ast.unparse(kind) == 'None':
        return told
    comment = prose(comment_on(module, kind.lineno, kind.end_lineno))
    return ', '.join(x for x in (code(ast.unparse(kind)), comment, told) if x)


def code(text):
    return f'`{text}`'


def prose(text):
    "Text as Markdown in which only `code` is marked up."
    parts = re.split(r'(`[^`]*`)', text)
    plain = [re.sub(r'([*_<$\[\]\\|#])', r'\\\1', p) for p in parts[::2]]
    parts[::2] = plain
    return ''.join(parts)


def described(docstring):
    "A docstring's text, its sections in paragraphs of their own; and what it returns."
    head, *rest = SECTION.split(docstring or '')
    sections = dict(zip(rest[::2], rest[1::2]))
    result = prose(sections.pop('Returns', '').strip())
    more = [f'**{name}:** {prose(text.strip())}' for name, text in sections.items()]
    return '\n\n'.join([prose(head.strip()), *more]), result


def signature(given):
    "Names and defaults; types stand with the parameters."
    short = [f'{p.name}={p.default}' if p.default else p.name for p in given]
    return ', '.join(s if len(s) < 60 else s.split('=')[0] + '=...' for s in short)


def field_list(given, result=''):
    "Parameters and result, as Sphinx takes them."
    lines = []
    for p in given:
        about = ', '.join(x for x in (code(p.kind) * bool(p.kind), prose(p.text)) if x)
        lines.append(f':param {p.name.replace("*", chr(92) + "*")}: {about}')
    if result:
        lines.append(f':returns: {result}')
    return '\n'.join(lines)


def directive(kind, heading, module, *body, ticks=4):
    "A description of the Python domain."
    text = '\n\n'.join(b for b in body if b)
    fence = '`' * ticks
    return f'{fence}{{py:{kind}}} {heading}\n:module: {module.name}\n\n{text}\n{fence}'


def describe_function(module, node, kind='function', ticks=4, prefix=''):
    given = list(parameters(module, node))
    text, told = described(ast.get_docstring(node))
    return directive(
        kind,
        f'{prefix}{node.name}({signature(given)})',
        module,
        text,
        field_list(given, returned(module, node, told)),
        ticks=ticks,
    )


def describe_class(module, cls):
    "A class with its fields or the parameters of its making, and its methods."
    methods = [n for n in cls.body if isinstance(n, ast.FunctionDef)]
    given = list(fields_of(module, cls))
    for method in methods:
        if method.name == '__init__':
            given = list(parameters(module, method))
    shown = []
    for method in methods:
        if not method.name.startswith('_'):
            marks = {ast.unparse(d) for d in method.decorator_list}
            kind = 'property' if marks & {'property', 'cached_property'} else 'method'
            shown.append(describe_method(module, cls, method, kind))
    return directive(
        'class',
        f'{cls.name}({signature(given)})' if given else cls.name,
        module,
        described(ast.get_docstring(cls))[0],
        field_list(given),
        *shown,
        ticks=5,
    )


def describe_method(module, cls, method, kind):
    if kind == 'method':
        return describe_function(module, method, 'method', prefix=f'{cls.name}.')
    text, told = described(ast.get_docstring(method))
    result = returned(module, method, told)
    return directive(kind, f'{cls.name}.{method.name}', module, text, result)


def describe_value(module, name, node):
    "A constant: what it is, as far as a line holds it."
    value = ast.unparse(node.value)
    value = value if len(value) <= 70 else value[:66] + ' ...'
    text = prose(comment_on(module, node.lineno, node.end_lineno))
    return directive('data', name, module, code(value.replace('`', "'")), text)


def describe(module, name, node):
    if isinstance(node, ast.FunctionDef):
        return describe_function(module, node)
    if isinstance(node, ast.ClassDef):
        return describe_class(module, node)
    return describe_value(module, name, node)


def module_section(module, titles):
    "A module: its sentence, where it is taught, its public names."
    links = [f'[{titles[c]}](../{c})' for c in module.chapters if c in titles]
    taught = f'Explained in {", ".join(links)}.' if links else ''
    parts = [f'## {module.name.split(".", 1)[1]}', prose(module.text), taught]
    parts += [describe(module, name, node) for name, node in module.names]
    return '\n\n'.join(p for p in parts if p)


def public_names(stub):
    "Headed groups of (name, module) in the list of what users import."
    groups = {}
    group = groups.setdefault('', [])
    for line in stub.read_text(encoding='utf-8').splitlines():
        if line.startswith('# '):
            group = groups.setdefault(line[2].upper() + line[3:], [])
        elif m := re.match(r'from \.(\S+) import (\w+)', line):
            group.append((m[2], m[1]))
    return {title: names for title, names in groups.items() if names}


def first_line(modules, name, module):
    "The first sentence of a docstring."
    for m in modules:
        if m.name.endswith('.' + module):
            node = dict(m.names).get(name)
            return (ast.get_docstring(node) or '').split('\n')[0] if node else ''
    return ''


def overview(package, modules):
    "The page of the names that users import."
    parts = [
        '# Public names',
        'Everything a user needs is imported from `cxrclip_nb` itself.',
    ]
    for title, names in public_names(package / '__init__.pyi').items():
        parts.append(f'## {title}')
        lines = []
        for name, module in names:
            link = f'{{py:obj}}`{name} <{package.name}.{module}.{name}>`'
            lines.append(f'- {link}: {prose(first_line(modules, name, module))}')
        parts.append('\n'.join(lines))
    return '\n\n'.join(parts) + '\n'


def write_pages(package, out, titles):
    """One page per subpackage, one for the modules beside them, and an overview.

    Returns: the names of the pages.
    """
    paths = [p for p in package.rglob('*.py') if not p.name.startswith('_')]
    modules = [read_module(p, package.parent) for p in paths]
    modules.sort(key=lambda m: (m.chapters[:1], m.name))
    groups = {'basics': []}
    for module in modules:
        parts = module.name.split('.')
        groups.setdefault(parts[1] if len(parts) > 2 else 'basics', []).append(module)
    out.mkdir(parents=True)
    for group, members in groups.items():
        heading = f'# {package.name}.{group}' if group != 'basics' else '# Basics'
        sections = [module_section(m, titles) for m in members]
        text = '\n\n'.join([heading, *sections]) + '\n'
        (out / f'{group}.md').write_text(text, encoding='utf-8')
    (out / 'index.md').write_text(overview(package, modules), encoding='utf-8')
    return ['index', *groups]
