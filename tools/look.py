#!/usr/bin/env python
"""Stored notebooks as pages, looked at in a browser that draws them.

    python tools/look.py nbs/3_losses/30_infonce.ipynb ...
    python tools/look.py --out runs/look nbs/0_start/01_tour.ipynb

Writes an HTML page and a screenshot of the whole page for each notebook, as wide as on
a desktop, and says which pictures are too narrow or wider than the page, and what runs
out of the page at the right. Exit 1 if anything does. Nothing is executed, nothing
is loaded from a network. The browser: Chromium or Chrome on the path, one that
Playwright has installed, or the variable CHROME; without one, the script says so and
ends well.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nbconvert import HTMLExporter

WIDTH = 1280  # of the page, CSS pixels
HIGHEST = 16_000  # of a screenshot, pixels
NARROWEST = 320  # of a picture, pixels
NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
MEASURE = """
<script>
window.addEventListener('load', () => {
  const page = document.documentElement;
  const room = img => img.closest('.jp-OutputArea-output, .jp-RenderedMarkdown');
  const own = img => Number(img.getAttribute('width')) || img.naturalWidth;
  const pictures = [...document.images].map(img => ({
    // a picture of the text may be stored larger than it is shown
    width: img.closest('.jp-RenderedMarkdown') ? img.clientWidth : own(img),
    room: (room(img) || page).clientWidth,
  }));
  const blocks = document.querySelectorAll('pre, table, .jp-OutputArea-output');
  const over = [...blocks].filter(b => b.scrollWidth > b.clientWidth + 1);
  const measured = document.createElement('pre');
  measured.id = 'measured';
  measured.textContent = JSON.stringify({
    pictures, height: page.scrollHeight, overflow: page.scrollWidth - page.clientWidth,
    over: over.map(b => b.textContent.trim().slice(0, 60)),
  });
  document.body.appendChild(measured);
  measured.style.display = 'none';
});
</script>
"""


def find_browser():
    "The path of a browser, or None."
    named = os.environ.get('CHROME')
    found = [shutil.which(name) for name in ([named] if named else NAMES)]
    installed = Path.home().glob('.cache/ms-playwright/chromium*/chrome-linux*/*')
    if not named:
        found += [str(p) for p in sorted(installed) if p.name.startswith('chrome')]
    return next((path for path in found if path), None)


def browse(browser, page, *options):
    "What the browser prints for a page, without a window and without a network."
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            '--headless',
            '--disable-gpu',
            '--hide-scrollbars',
            '--host-resolver-rules=MAP * ~NOTFOUND',
            f'--user-data-dir={profile}',
            *options,
            page.absolute().as_uri(),
        ]
        if os.geteuid() == 0:
            command.insert(1, '--no-sandbox')  # Chromium demands it of root
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout


def write_page(notebook, out):
    "The notebook as one HTML file that measures itself when it is shown."
    html, _ = HTMLExporter().from_filename(str(notebook))
    # pictures that lie beside the notebook; embedding them would unfold <details>
    beside = f'<base href="{notebook.parent.absolute().as_uri()}/">'
    html = html.replace('<head>', f'<head>{beside}', 1)
    page = out / f'{notebook.stem}.html'
    page.write_text(html.replace('</body>', f'{MEASURE}</body>'), encoding='utf-8')
    return page


def measure(browser, page):
    "Widths of the pictures, height of the page, and what is too wide for it."
    dom = browse(browser, page, f'--window-size={WIDTH},1000', '--dump-dom')
    found = re.search(r'<pre id="measured"[^>]*>(.*?)</pre>', dom, re.S)
    if found is None:
        sys.exit(f'{browser} did not show {page}: try another one with CHROME=...')
    text = found[1].replace('&lt;', '<').replace('&gt;', '>').replace('&amp;', '&')
    return json.loads(text)


def faults(measured):
    "One line for each thing that does not fit."
    for k, picture in enumerate(measured['pictures']):
        if picture['width'] < NARROWEST:
            yield f'picture {k} is {picture["width"]} pixels wide, below {NARROWEST}'
        if picture['width'] > picture['room'] + 1:
            yield f'picture {k}: {picture["width"]} pixels, room is {picture["room"]}'
    if measured['overflow'] > 0:
        yield f'the page is {measured["overflow"]} pixels too wide'
    for text in measured['over']:
        yield f'runs out at the right: {text!r}'


def look(browser, notebook, out):
    "Page and screenshot of one notebook; its faults."
    page = write_page(notebook, out)
    measured = measure(browser, page)
    size = f'--window-size={WIDTH},{min(measured["height"], HIGHEST)}'
    shot = page.with_suffix('.png')
    browse(browser, page, size, f'--screenshot={shot.absolute()}')
    widths = sorted(picture['width'] for picture in measured['pictures'])
    middle = widths[len(widths) // 2] if widths else '-'
    print(f'{notebook.stem}: {len(widths)} pictures, median width {middle}; {shot}')
    return [f'{notebook.stem}: {fault}' for fault in faults(measured)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('nbs', nargs='+', type=Path)
    parser.add_argument('--out', type=Path, default=Path('runs/look'))
    args = parser.parse_args()
    browser = find_browser()
    if browser is None:
        print('Not looked at: no Chromium or Chrome here; name one with CHROME=...')
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    found = [fault for nb in args.nbs for fault in look(browser, nb, args.out)]
    print(*found, sep='\n')
    print(f'{len(args.nbs)} pages in {time.perf_counter() - start:.0f} s')
    return int(bool(found))


if __name__ == '__main__':
    sys.exit(main())
