"""What needs several processes.

`gather` and `bigbatch` on three ranks against one; trainings on two, from a notebook,
and with cut weights.
"""

import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from cxrclip_nb.losses.contrastive import cxrclip_loss
from cxrclip_nb.model.clip import CXRCLIP, Embeddings
from cxrclip_nb.training.distributed import (
    contrastive_backward,
    gather,
    pieces,
    rank_sizes,
)

SHARES = (9, 4, 11)  # studies of each rank, 24 in all
PROGRAMS = Path(__file__).parent / 'programs'


def seed_piece(rank, piece):
    return torch.manual_seed(100 * rank + piece)


class Towers(nn.Module):
    def __init__(self, p=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = (
            nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(p), nn.Linear(16, 8))
            for _ in range(2)
        )
        self.logit_scale = nn.Parameter(torch.tensor(2.6))

    def forward(self, images, input_ids):
        unit = nn.functional.normalize
        return Embeddings(
            unit(self.image(images), dim=-1),
            unit(self.text(input_ids), dim=-1),
            self.logit_scale.exp(),
        )


def whole_batch(dtype):
    x = torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    return dict(images=x, input_ids=x.flip(-1))


def share(batch, rank):
    start = sum(SHARES[:rank])
    return {k: v[:, start : start + SHARES[rank]] for k, v in batch.items()}


def grad_of(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def on_rank(rank, port, folder):
    "All cases on one of three ranks; what it found goes to a file."
    torch.set_num_threads(1)
    os.environ |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=3)
    out = {}
    for dtype in (torch.float64, torch.float32):
        for micro, p, loss in (
            (None, 0.0, cxrclip_loss),
            (4, 0.0, cxrclip_loss),
            (10, 0.0, lambda *e: cxrclip_loss(*e, chunk=7)),
            (4, 0.5, cxrclip_loss),
        ):
            model = Towers(p).to(dtype)
            losses = contrastive_backward(
                nn.parallel.DistributedDataParallel(model),
                share(whole_batch(dtype), rank),
                loss,
                micro,
                lambda i: seed_piece(rank, i),
            )
            out[str((dtype, micro, p))] = losses['total'], grad_of(model)
    ids = share(dict(ids=torch.arange(48).reshape(2, 24)), rank)['ids']
    out['ids'], out['sizes'] = gather(ids), torch.tensor(rank_sizes(ids))
    torch.save(out, f'{folder}/{rank}.pt')
    dist.barrier()
    # a wrapped model that outlives its group ends the process with an abort
    del model
    gc.collect()
    dist.destroy_process_group()


def start_ranks(folder):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    mp.spawn(on_rank, args=(port, str(folder)), nprocs=3)


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    start_ranks(folder)
    return [torch.load(folder / f'{r}.pt', weights_only=True) for r in range(3)]


def alone(dtype, micro, p):
    """One process with all 24 studies: the same pieces under the same seeds, joined,
    and one backward pass through everything.
    """
    model, batch, seen = Towers(p).to(dtype), whole_batch(dtype), []
    for r in range(3):
        for i, part in enumerate(pieces(share(batch, r), micro or 24)):
            seed_piece(r, i)
            seen.append(model(**part))
    loss = cxrclip_loss(
        torch.cat([e.image for e in seen], 1),
        torch.cat([e.text for e in seen], 1),
        seen[0].scale,
    )['total']
    loss.backward()
    return loss.detach(), grad_of(model)


@pytest.mark.parametrize('dtype, eps', [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize('micro, p', [(None, 0.0), (4, 0.0), (10, 0.0), (4, 0.5)])
def test_three_uneven_ranks_have_the_gradient_of_one_process(
    ranks, dtype, eps, micro, p
):
    loss, g = alone(dtype, micro, p)
    for out in ranks:
        l, h = out[str((dtype, micro, p))]
        assert h.shape == g.shape and h.dtype == dtype
        assert (l / loss - 1).abs() <= eps and (
            (h - g).abs().max() / g.abs().max()
        ) <= eps


def test_integers_and_sizes_reach_every_rank(ranks):
    for out in ranks:
        assert (
            out['ids'].equal(torch.arange(48).reshape(2, 24))
            and tuple(out['sizes'].tolist()) == SHARES
        )


def test_a_notebook_launches_two_processes(tmp_path):
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        HF_HUB_OFFLINE='1',
        CUDA_VISIBLE_DEVICES='',
        TQDM_DISABLE='1',
    )
    r = subprocess.run(
        [sys.executable, str(PROGRAMS / 'from_a_notebook.py'), str(tmp_path)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert r.returncode == 0, r.stderr[-3000:]
    assert {p.name for p in tmp_path.glob('rank*')} == {'rank0of2', 'rank1of2'}, (
        r.stdout
    )
    history = (tmp_path / 'run' / 'history.csv').read_text().splitlines()
    assert len(history) == 3 and (tmp_path / 'run' / 'metrics.json').exists()


def test_cut_weights_train_stop_and_go_on_as_whole_ones(tmp_path):
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        HF_HUB_OFFLINE='1',
        CUDA_VISIBLE_DEVICES='',
        TQDM_DISABLE='1',
    )
    r = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node=2',
            str(PROGRAMS / 'cut_weights.py'),
            str(tmp_path),
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert r.returncode == 0, r.stderr[-3000:]
    assert (
        'stopped by signal 15 after step 5 of 8' in r.stdout
        and 'resumed at step 5 of 8' in r.stdout
        and 'resumed at step 8 of 8' in r.stdout
    )
    plain, cut = (
        pd.read_csv(tmp_path / name / 'history.csv').set_index('step')
        for name in ('plain', 'cut')
    )
    for column in ('total', 'grad_norm', 'scale', 'valid'):
        assert np.allclose(cut[column], plain[column], rtol=2e-3, equal_nan=True), (
            column
        )
    assert plain.valid.notna().sum() >= 2 and (plain.total.diff()[1:] != 0).all()
    a, b = (
        CXRCLIP.from_pretrained(tmp_path / name / 'model').state_dict()
        for name in ('plain', 'cut')
    )
    assert all(
        torch.allclose(a[k].float(), b[k].float(), atol=2e-4)
        for k in a
        if 'running' not in k
    )
    a, b = (
        torch.load(tmp_path / name / 'last.pt', weights_only=True)['optimizer']['state']
        for name in ('plain', 'cut')
    )
    for i, moments in a.items():
        assert b[i]['step'] == moments['step'] == 8
        for k in ('exp_avg', 'exp_avg_sq'):
            assert (b[i][k] - moments[k]).abs().max() <= 0.01 * moments[
                k
            ].abs().max() + 1e-9, (i, k)
