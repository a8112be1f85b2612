#!/usr/bin/env python
"""Is the site whole? `python tools/check_site.py _site/html`.

Without a browser: links and pictures lead somewhere, nothing is loaded from the
network. In Chromium (`CHROME`, or one on the path; left out where there is none):
every page at the width of a desktop and of a phone, one browser for all of them: no
page scrolls sideways, pictures load and fit, formulas are drawn. Exit 1 if anything is
wrong. `--shot PAGE WIDTH OUT.png` takes a picture of a page.
"""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

WIDTHS = (1280, 390)
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
LIMIT = 600  # seconds for all pages
# Runs in the browser: each page in a frame of each width, the faults sent back.
HARNESS = """<!doctype html><meta charset="utf-8"><body style="margin:0"><script>
const pages = %s, widths = %s, sleep = ms => new Promise(done => setTimeout(done, ms));
const main = doc => doc.querySelector('article') || doc.body;
const scrolls = (e, root) => {
  for (e = e.parentElement; e && e !== root; e = e.parentElement)
    if (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX)) return true;
  return false;
};
const name = e => e.tagName.toLowerCase() + (e.className ? '.' + e.className : '') +
  ' "' + (e.textContent || '').trim().slice(0, 40) + '"';

function sideways(doc) {
  const root = doc.documentElement, out = [];
  if (root.scrollWidth <= root.clientWidth + 1) return out;
  for (const e of doc.querySelectorAll('article *'))
    if (e.getBoundingClientRect().right > root.clientWidth + 1 && !scrolls(e, root))
      out.push(name(e));
  return [`page is ${root.scrollWidth} px wide in ${root.clientWidth}: ` + out[0]];
}

function pictures(doc) {
  const out = [], column = main(doc).getBoundingClientRect();
  for (const e of doc.querySelectorAll('article img')) {
    const src = (e.getAttribute('src') || '').slice(0, 60);
    if (!e.complete || !e.naturalWidth) out.push('picture does not load: ' + src);
    if (e.getBoundingClientRect().right > column.right + 1)
      out.push('picture wider than the column: ' + src);
  }
  return out;
}

function formulas(doc) {
  const out = [];
  for (const e of doc.querySelectorAll('.math'))
    if (!e.querySelector('mjx-container')) out.push('formula not drawn: ' + name(e));
  for (const e of doc.querySelectorAll('mjx-merror, mjx-math [style*="color: red"]'))
    out.push('formula in error: ' + name(e));
  const text = doc.createTreeWalker(main(doc), NodeFilter.SHOW_TEXT);
  while (text.nextNode()) {
    const n = text.currentNode;
    if (/\\$[^$]+\\$|\\\\\\(|\\\\\\[/.test(n.data) &&
        !n.parentElement.closest('pre, code, script, mjx-container, .cell_output, dt'))
      out.push('formula left as text: ' + n.data.trim().slice(0, 60));
  }
  return out;
}

async function look(frame, page, width) {
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  await new Promise(done => { frame.onload = done; frame.src = '/' + page; });
  const win = frame.contentWindow, doc = frame.contentDocument;
  doc.querySelectorAll('details').forEach(e => { e.open = true; });
  doc.querySelectorAll('img').forEach(e => { e.loading = 'eager'; });
  const images = [...doc.images].map(e => e.decode().catch(() => 0));
  await Promise.race([Promise.all(images), sleep(5000)]);
  if (doc.querySelector('.math')) {
    for (let n = 0; n < 200 && !win.MathJax?.startup?.promise; n++) await sleep(25);
    await win.MathJax?.startup?.promise;
  }
  await sleep(20);
  return [...sideways(doc), ...pictures(doc), ...formulas(doc)];
}

(async () => {
  const frame = document.body.appendChild(document.createElement('iframe'));
  for (const width of widths) for (const page of pages) {
    let found;
    try { found = await look(frame, page, width); } catch (e) { found = [String(e)]; }
    const body = JSON.stringify({page, width, found});
    await fetch('/__found', {method: 'POST', body});
  }
  await fetch('/__done', {method: 'POST', body: '{}'});
})();
</script>"""
SHOT = (
    '<!doctype html><body style="margin:0"><iframe src="/{page}" '
    'style="border:0;width:{width}px;height:1400px"></iframe>'
)


class Page(HTMLParser):
    "Anchors of a page, where it leads, and what it loads."

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[k] for k in ('id', 'name') if attrs.get(k)}
        if tag == 'a' and attrs.get('href'):
            self.links.append(attrs['href'])
        loaded = tag in ('img', 'script', 'iframe') and attrs.get('src')
        if tag == 'link' and attrs.get('rel') in ('stylesheet', 'icon', 'preload'):
            loaded = attrs.get('href')
        if loaded:
            self.loads.append(loaded)


def leads_nowhere(site, path, pages, link):
    "Is there no such file, or no such anchor in it?"
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    there = path
    if parts.path:
        there = (path.parent / urllib.parse.unquote(parts.path)).resolve()
    if there.is_dir():
        there /= 'index.html'
    if not there.is_file() or not there.is_relative_to(site):
        return True
    anchor = urllib.parse.unquote(parts.fragment)
    return bool(anchor) and there in pages and anchor not in pages[there].anchors


def link_faults(site):
    "What is wrong with the pages as files."
    pages = {p: Page(p) for p in html_pages(site)}
    for path, page in pages.items():
        where = path.relative_to(site)
        for link in page.links + page.loads:
            if leads_nowhere(site, path, pages, link):
                yield f'{where}: {link} leads nowhere'
        for link in page.loads:
            if urllib.parse.urlsplit(link).netloc:
                yield f'{where}: {link} is loaded from the network'


def html_pages(site):
    return sorted(p for p in site.rglob('*.html') if '_static' not in p.parts)


class Handler(http.server.SimpleHTTPRequestHandler):
    "The site, the page that looks at it, and its answers."

    def log_message(self, *args):
        pass

    def do_GET(self):
        if urllib.parse.urlsplit(self.path).path != '/__look':
            return super().do_GET()
        body = self.server.look.encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(204)
        self.end_headers()
        if self.path == '/__done':
            self.server.done.set()
        else:
            self.server.answers.append(json.loads(body))


def serve(site, look):
    handler = functools.partial(Handler, directory=str(site))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    server.look, server.answers, server.done = look, [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def find_browser():
    named = os.environ.get('CHROME')
    found = [shutil.which(b) for b in ([named] if named else BROWSERS)]
    return next((b for b in found if b), None)


def command(browser, server, home, *options):
    "A browser that resolves nothing but this machine, so that nothing is fetched."
    return [
        browser,
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-dev-shm-usage',
        '--no-first-run',
        '--disable-background-networking',
        '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1',
        f'--user-data-dir={home}',
        *options,
        f'http://127.0.0.1:{server.server_port}/__look',
    ]


def browser_faults(site, browser):
    "What is wrong with the pages as they are drawn."
    names = [p.relative_to(site).as_posix() for p in html_pages(site)]
    server = serve(site, HARNESS % (json.dumps(names), json.dumps(WIDTHS)))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        size = f'--window-size={max(WIDTHS) + 40},1000'
        run = command(browser, server, home, '--remote-debugging-port=0', size)
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(run, stdout=quiet, stderr=quiet)
        done = server.done.wait(LIMIT)
        process.terminate()
        process.wait()
    server.shutdown()
    for answer in server.answers:
        for fault in answer['found']:
            yield f'{answer["page"]} at {answer["width"]} px: {fault}'
    expected = len(names) * len(WIDTHS)
    if not done or len(server.answers) != expected:
        yield f'the browser looked at {len(server.answers)} of {expected} pages'


def take_shot(site, page, width, out):
    "A picture of the top of a page."
    server = serve(site, SHOT.format(page=page, width=width))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        size = f'--window-size={width},1400'
        wait = '--virtual-time-budget=8000'
        run = command(find_browser(), server, home, size, wait, f'--screenshot={out}')
        subprocess.run(run, check=True, timeout=60, capture_output=True)
    server.shutdown()


def main(argv):
    site = Path(argv[0]).resolve()
    if argv[1:2] == ['--shot']:
        return take_shot(site, argv[2], int(argv[3]), argv[4])
    faults = list(link_faults(site))
    browser = find_browser()
    if browser:
        faults += browser_faults(site, browser)
    else:
        print('no Chromium (set CHROME): pages were not looked at')
    looked = f', at {" and ".join(map(str, WIDTHS))} px' if browser else ''
    ok = f'{len(html_pages(site))} pages in order{looked}'
    print(*(faults or [ok]), sep='\n')
    return bool(faults)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
