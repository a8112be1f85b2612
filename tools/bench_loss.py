#!/usr/bin/env python
"""Time and peak memory of the loss, forward and backward: `python tools/bench_loss.py
[--sizes 128 1024] [--csv nbs/7_models/74_chunked.csv]`.

Two images and two texts per study, width 512, float32, one thread, in seconds of
processor time. "twelve products" is the straightforward way, and the structure of
the released code: each of the six pairings is a symmetric cross-entropy that
computes both of its products. "six blocks" is `cxrclip_loss`, "in pieces of 256" the
same with `chunk=256`. Each way runs in a process of its own, so that its peak memory
is its own; the memory is that above the embeddings, taken in a process that hands
every freed tensor back at once (else it shows what the allocator hoards), the time
in one that does as it likes.
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

from cxrclip_nb.losses.contrastive import cxrclip_loss
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
    return cxrclip_loss(image, text, scale)['total']


def in_pieces(image, text, scale):
    return cxrclip_loss(image, text, scale, chunk=256)['total']


WAYS = {'twelve products': twelve, 'six blocks': six, 'in pieces of 256': in_pieces}


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
    "One process for the memory, and one (or the fastest of several) for the time."
    lean = process(way, B, 1, MALLOC_MMAP_THRESHOLD_='65536')
    repeat = max(1, min(50, (2048 // B) ** 2))
    seconds = min(process(way, B, repeat)['seconds'] for _ in range(rounds))
    return dict(B=B, way=way, seconds=seconds, mb=lean['mb'], loss=lean['loss'])


def table(sizes, rounds, csv):
    rows = []
    for B in sizes:
        for way in WAYS:
            row = measure(B, way, rounds)
            rows.append(row)
            print(
                f'{B:6d}  {way:20s} {row["seconds"]:10.4f} s {row["mb"]:9.1f} MB',
                flush=True,
            )
            # what is measured is not lost
            if csv:
                pd.DataFrame(rows).drop(columns='loss').round(
                    dict(seconds=6, mb=1)
                ).to_csv(csv, index=False)
    return pd.DataFrame(rows)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--sizes', type=int, nargs='+', default=[2**k for k in range(7, 13)])
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--csv', type=Path)
    p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        print(json.dumps(run_one(*json.loads(a.one))))
        sys.exit()
    t = table(a.sizes, a.rounds, a.csv)
    first = t[t.way == 'twelve products'].set_index('B')
    print('\ntimes faster than twelve products, and times less memory')
    t['faster'] = first.seconds.loc[t.B].values / t.seconds
    t['less memory'] = first.mb.loc[t.B].values / t.mb
    print(
        t.pivot(index='B', columns='way', values=['faster', 'less memory'])
        .round(1)
        .to_string()
    )
