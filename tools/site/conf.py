"""Sphinx reads this: the site is made of what `prepare.py` wrote; nothing is run."""

import importlib.util
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from prepare import chapter_paths, settings  # noqa: E402

cfg = settings()
NBS = HERE.parent.parent / cfg['nbs_path']
project = cfg['lib_name']
release = version = cfg['version']
author = cfg['author']
copyright = '2026, ' + author  # noqa: A001
language = 'en'

extensions = ['myst_nb']
nb_execution_mode = 'off'
nb_merge_streams = True
myst_enable_extensions = ['amsmath', 'dollarmath', 'fieldlist']
myst_heading_anchors = 4
myst_dmath_double_inline = True
suppress_warnings = ['mystnb.unknown_mime_type']
maximum_signature_line_length = 72
add_module_names = False
toc_object_entries_show_parents = 'hide'
mathjax_path = 'mathjax/tex-chtml.js'  # copied below: no network is needed

html_theme = 'sphinx_book_theme'
html_title = project
html_static_path = [str(HERE / 'static')]
html_css_files = ['site.css']
html_copy_source = True
html_sourcelink_suffix = ''
html_last_updated_fmt = None
html_theme_options = {
    'repository_url': cfg['git_url'],
    'repository_branch': cfg['branch'],
    'path_to_docs': cfg['nbs_path'],
    'use_repository_button': True,
    'use_download_button': True,
    'use_fullscreen_button': False,
    'launch_buttons': {'colab_url': 'https://colab.research.google.com'},
    'home_page_in_toc': True,
    'navbar_persistent': [],
    'show_navbar_depth': 1,
    'show_toc_level': 2,
}


class FoldChecks(SphinxPostTransform):
    "The sections `Checks` stand behind a line that opens them."

    default_priority = 900

    def run(self):
        for section in list(self.document.findall(nodes.section)):
            if section.children[0].astext() != 'Checks':
                continue
            head = '<details class="checks"><summary>Show the checks</summary>'
            opened = nodes.raw('', head, format='html')
            closed = nodes.raw('', '</details>', format='html')
            section[1:] = [opened, *section.children[1:], closed]


def copy_mathjax(app, error):
    "The part of MathJax that the pages load."
    if error or app.builder.name != 'html':
        return
    package = importlib.util.find_spec('sphinx-mathjax-offline').origin
    there = Path(package).parent / 'static' / 'mathjax'
    here = Path(app.outdir) / '_static' / 'mathjax'
    for part in ('output/chtml/fonts', 'a11y'):
        shutil.copytree(there / part, here / part, dirs_exist_ok=True)
    shutil.copy(there / 'tex-chtml.js', here)


def copy_notebooks(app, error):
    "The download button gives the notebooks as they are, not as they are shown."
    if error or app.builder.name != 'html':
        return
    for path in [NBS / 'index.ipynb', *chapter_paths(NBS)]:
        shutil.copy(path, Path(app.outdir) / '_sources' / path.relative_to(NBS))


def setup(app):
    app.add_post_transform(FoldChecks)
    app.connect('build-finished', copy_mathjax)
    app.connect('build-finished', copy_notebooks)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
