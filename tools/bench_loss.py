#!/usr/bin/env python
"""Time and peak memory of the loss, forward and backward: `python tools/bench_loss.py
[--sizes 128 1024] [--csv nbs/7_models/74_chunked.csv]`.

Two images and two texts a study, width 512, float32, one thread, in seconds of
processor time. "twelve products" is the straightforward way, and the structure of
the released code: each of the six pairings is a symmetric cross-entropy that
computes both of its products. Each way runs in a process of its own, so that its
peak memory is its own; the memory is that above the embeddings, taken in a process
that hands every freed tensor back at once (else it shows what the allocator
hoards), the time in one that does as it likes. What would need more than `--limit`
GB is not run: its figures are those of the largest batch that was, times the square
of the ratio, and marked as computed.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from cxrclip_nb.testing.costs import memory

WIDTH = 512


def twelve(image, text, scale):
    answers = torch.arange(image.shape[1])

    def both(a, b):
        there = F.cross_entropy(scale * a @ b.T, answers)
        back = F.cross_entropy(scale * b @ a.T, answers)
        return (there + back) / 2

    mvs = sum(both(x, t) for x in image for t in text) / 4
    return mvs + both(*image) + 0.5 * both(*text)


def six(image, text, scale):
    from cxrclip_nb.losses.contrastive import icl_loss, mvs_loss, tcl_loss

    icl, tcl = icl_loss(image, scale), tcl_loss(text, scale)
    return mvs_loss(image, text, scale) + icl + 0.5 * tcl


def ours(image, text, scale, chunk=None):
    from cxrclip_nb.losses.contrastive import cxrclip_loss

    return cxrclip_loss(image, text, scale, chunk=chunk)['total']


WAYS = {
    'twelve products': twelve,
    'six blocks': six,
    'gradient on the way': ours,
    'in pieces of 256': lambda *e: ours(*e, chunk=256),
}


def embeddings(B):
    g = torch.Generator().manual_seed(0)

    def unit():
        vectors = torch.randn(2, B, WIDTH, generator=g)
        return F.normalize(vectors, dim=-1).requires_grad_()

    return unit(), unit(), torch.tensor(14.3, requires_grad=True)


def run_one(way, B, repeat):
    """The fastest of `repeat` steps in seconds, the peak of memory above what was held
    before, and the loss.
    """
    torch.set_num_threads(1)
    WAYS[way](*embeddings(8)).backward()
    e, seconds, mb = embeddings(B), [], []
    for _ in range(repeat):
        for x in e:
            x.grad = None
        # forget earlier peaks
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')
        # of one thread: waiting does not count
        before, start = memory('VmRSS'), time.process_time()
        loss = WAYS[way](*e)
        loss.backward()
        seconds.append(time.process_time() - start)
        mb.append(memory('VmHWM') - before)
    return dict(seconds=min(seconds), mb=max(mb), loss=loss.item())


def process(way, B, repeat, **env):
    out = subprocess.run(
        [sys.executable, __file__, '--one', json.dumps([way, B, repeat])],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | dict(OMP_NUM_THREADS='1') | env,
    )
    return json.loads(out.stdout.splitlines()[-1])


def measure(B, way, rounds):
    """Two processes, one for the memory and one (or the fastest of several) for the
    time; above 8,192 studies one for both.
    """
    lean = process(way, B, 1, MALLOC_MMAP_THRESHOLD_='65536')
    fast = (
        min(
            (process(way, B, max(1, min(50, (2048 // B) ** 2))) for _ in range(rounds)),
            key=lambda r: r['seconds'],
        )
        if B <= 8192
        else lean
    )
    return dict(
        B=B,
        way=way,
        seconds=fast['seconds'],
        mb=lean['mb'],
        loss=fast['loss'],
        computed=False,
    )


def larger(row, B):
    "By arithmetic, from a measured row: both grow with the square."
    k = (B / row['B']) ** 2
    return dict(
        B=B,
        way=row['way'],
        seconds=row['seconds'] * k,
        mb=row['mb'] * k,
        loss=float('nan'),
        computed=True,
    )


def table(sizes, rounds, limit, csv):
    rows, last = [], {}
    for B in sizes:
        for way in WAYS:
            guess = larger(last[way], B) if way in last else None
            row = (
                guess
                if guess and 'pieces' not in way and guess['mb'] > limit * 1024
                else measure(B, way, rounds)
            )
            if not row['computed']:
                last[way] = row
            rows.append(row)
            print(
                f'{B:6d}  {way:20s} {row["seconds"]:10.4f} s '
                f'{row["mb"]:9.1f} MB  '
                f'{"computed" if row["computed"] else ""}',
                flush=True,
            )
            # what is measured is not lost
            if csv:
                pd.DataFrame(rows)[['B', 'way', 'seconds', 'mb', 'computed']].round(
                    dict(seconds=6, mb=1)
                ).to_csv(csv, index=False)
    return pd.DataFrame(rows)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--sizes', type=int, nargs='+', default=[2**k for k in range(7, 16)])
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--limit', type=float, default=12.0, help='GB that a way may need')
    p.add_argument('--csv', type=Path)
    p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        print(json.dumps(run_one(*json.loads(a.one))))
        sys.exit()
    t = table(a.sizes, a.rounds, a.limit, a.csv)
    first = t[t.way == 'twelve products'].set_index('B')
    print('\ntimes faster than twelve products, and times less memory')
    t['faster'] = first.seconds.loc[t.B].values / t.seconds
    t['less memory'] = first.mb.loc[t.B].values / t.mb
    print(
        t.pivot(index='B', columns='way', values=['faster', 'less memory'])
        .round(1)
        .to_string()
    )
