#!/usr/bin/env python
"""Time and peak memory of the model at the paper's size, ours against the naive ways:
`python tools/bench_model.py [--only encode step memory compile] [--step_batch 16]
[--rounds 2]`.

ResNet-50 at 224 pixels and a BERT of base size, random weights, report-like texts
(about 70 tokens on average, up to 200), one thread, in seconds of processor time. A
step is a training step as a user has it: dropout .1, forward, backward, clipped
gradients, fused AdamW; a step before it warms up and is not counted. Each way runs
in a process of its own, so that its peak memory is its own; ways take turns, the
fastest round counts.
"""

import argparse
import json
import subprocess
import sys

import numpy as np
import torch
from torch import nn

from cxrclip_nb.testing.costs import timed

BERT = dict(
    model_type='bert',
    vocab_size=28996,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
)


def build(layers=12):
    from cxrclip_nb.model.clip import CXRCLIP
    from cxrclip_nb.model.hub import CXRCLIPConfig

    torch.manual_seed(0)
    return CXRCLIP(
        CXRCLIPConfig(
            image_encoder='resnet50', text_config=BERT | dict(num_hidden_layers=layers)
        )
    ).train()


def make_batch(B):
    "uint8 films [2, B, 1, 224, 224]; ids and mask [2, B, 256], padded to 256."
    from cxrclip_nb.core import rng_for

    rng = rng_for(0, 'bench')
    n = torch.as_tensor(
        np.clip(rng.lognormal(np.log(62), 0.5, (2, B)).astype(int), 8, 200)
    )
    mask = (torch.arange(256) < n[..., None]).long()
    ids = torch.as_tensor(rng.integers(5, 28000, (2, B, 256))) * mask
    return (
        torch.as_tensor(rng.integers(0, 256, (2, B, 1, 224, 224), dtype=np.uint8)),
        ids,
        mask,
    )


# ---- texts: how the 2B texts of a batch pass the tower ----
def padded(m, ids, mask):
    return m.text_encoder.encode(ids.flatten(0, 1), mask.flatten(0, 1))


def longest(m, ids, mask):
    w = int(mask.sum(-1).max())
    return padded(m, ids[..., :w], mask[..., :w])


def groups(m, ids, mask):
    from cxrclip_nb.model.packing import encode_grouped
    from cxrclip_nb.model.text_encoder import text_lengths

    return encode_grouped(
        m.text_encoder,
        ids.flatten(0, 1),
        mask.flatten(0, 1),
        text_lengths(mask.flatten(0, 1)),
    )


def row(m, ids, mask):
    return m.text_encoder(ids.flatten(0, 1), mask.flatten(0, 1))


def row_groups(m, ids, mask):
    m.text_encoder.n_groups = 4
    return row(m, ids, mask)


def short_rows(m, ids, mask, most=1000):
    "Rows of at most `most` tokens, one after the other."
    ids, mask = ids.flatten(0, 1), mask.flatten(0, 1)
    number = (mask.sum(1).cumsum(0) - 1) // most
    return torch.cat(
        [m.text_encoder(ids[number == k], mask[number == k]) for k in number.unique()]
    )


def two_padded(m, ids, mask):
    return torch.cat([m.text_encoder.encode(i, k) for i, k in zip(ids, mask)])


def two_rows(m, ids, mask):
    return torch.cat([m.text_encoder(i, k) for i, k in zip(ids, mask)])


TEXTS = {
    'two passes, padded to 256': two_padded,
    'padded to 256': padded,
    'to the longest': longest,
    'four groups': groups,
    'two rows': two_rows,
    'rows of 1000 tokens': short_rows,
    'one row, attention in groups': row_groups,
    'one row (ours)': row,
}


# ---- films: how the 2B films pass theirs ----
def views(m, films):
    return torch.stack([m.encode_image(v) for v in films])


def together(m, films):
    return m.encode_image(films.flatten(0, 1))


def planar(m, films):
    m.image_encoder.to(memory_format=torch.contiguous_format)
    return views(m, films)


FILMS = {
    'both views in one pass': together,
    'channels first': planar,
    'view after view (ours)': views,
}


def step(m, way, batch, optimizer):
    "One whole training step -> loss."
    from cxrclip_nb.losses.contrastive import cxrclip_loss

    films, ids, mask = batch
    text = nn.functional.normalize(
        m.text_projection(TEXTS[way](m, ids, mask)), dim=-1
    ).unflatten(0, ids.shape[:2])
    loss = cxrclip_loss(views(m, films), text, m.scale)['total']
    loss.backward()
    nn.utils.clip_grad_norm_(m.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def run_one(what, way, B, options):
    "`timed` of one way, after a warm-up: a whole step, or a pass at batch 1."
    torch.set_num_threads(1)
    model, batch = build(), make_batch(B)
    adam = (
        torch.optim.AdamW(
            model.parameters(),
            lr=5e-5,
            weight_decay=1e-4,
            fused='plain adam' not in options,
        )
        if what == 'step'
        else None
    )
    if 'save_memory' in options:
        model.image_encoder.save_memory()
        model.text_encoder.save_memory()
    run = dict(
        texts=lambda b: TEXTS[way](model, *b[1:]),
        films=lambda b: FILMS[way](model, b[0]),
        step=lambda b: step(model, way, b, adam),
    )[what]
    if 'compile' in options:
        run = torch.compile(run, dynamic=what == 'texts')
    if what != 'step':
        model.eval()
    with torch.set_grad_enabled(what == 'step'):
        run(
            batch
            if what == 'step' or 'compile' in options
            else [x[:, :1] if B > 1 else x for x in batch]
        )
        return timed(lambda: run(batch))


def measure(what, ways, B, rounds, options=()):
    "{way: {seconds, mb}}: each way in its own process, in turns."
    best = {}
    for _ in range(rounds):
        for way in ways:
            out = subprocess.run(
                [
                    sys.executable,
                    __file__,
                    '--one',
                    json.dumps([what, way, B, list(options)]),
                ],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            got = json.loads(out.splitlines()[-1])
            best[way] = {
                k: min(v, best[way][k]) if way in best else v for k, v in got.items()
            }
    return best


def show(title, results):
    slow = max(r['seconds'] for r in results.values())
    print(f'\n{title}')
    for way, r in results.items():
        print(
            f'  {way:30s}{r["seconds"]:8.2f} s {slow / r["seconds"]:6.2f} x '
            f'{r["mb"]:8.0f} MB',
            flush=True,
        )


def encodings(a):
    for B in (1, a.batch):
        show(f'encode {2 * B} texts', measure('texts', TEXTS, B, a.rounds))
        show(f'encode {2 * B} films', measure('films', FILMS, B, a.rounds))


def steps(a):
    real = int(make_batch(a.step_batch)[2].sum())
    print(f'\n{real} tokens of {a.step_batch * 512} places')
    show(
        f'training step, {a.step_batch} studies',
        measure(
            'step',
            a.ways
            or [
                'padded to 256',
                'to the longest',
                'four groups',
                'rows of 1000 tokens',
                'one row, attention in groups',
                'one row (ours)',
            ],
            a.step_batch,
            a.rounds,
        ),
    )


def memories(a):
    named = {
        'as it is': (),
        'layers recomputed': ('save_memory',),
        'AdamW not fused': ('plain adam',),
    }
    show(
        f'training step, {a.step_batch} studies, one row',
        {
            name: measure('step', ['one row (ours)'], a.step_batch, a.rounds, o)[
                'one row (ours)'
            ]
            for name, o in named.items()
        },
    )


def compiled(a):
    for what, way in (('texts', 'one row (ours)'), ('films', 'view after view (ours)')):
        for B in (1, a.batch):
            show(
                f'encode {2 * B} {what}, torch.compile',
                {
                    o or 'eager': measure(what, [way], B, a.rounds, [o] if o else [])[
                        way
                    ]
                    for o in ('', 'compile')
                },
            )


PARTS = dict(encode=encodings, step=steps, memory=memories, compile=compiled)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument(
        '--only', nargs='+', choices=PARTS, default=list(PARTS), help='parts to run'
    )
    p.add_argument('--ways', nargs='+', choices=TEXTS, help='ways of a step')
    p.add_argument(
        '--batch', type=int, default=64, help='studies of the large batch of encode'
    )
    p.add_argument(
        '--step_batch', type=int, default=16, help='studies of a training step'
    )
    p.add_argument('--rounds', type=int, default=2)
    p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        print(json.dumps(run_one(*json.loads(a.one))))
        sys.exit()
    for part in a.only:
        PARTS[part](a)
