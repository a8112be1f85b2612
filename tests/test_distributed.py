"""What needs several processes.

`gather` and `bigbatch` on three ranks against one; trainings on two, also from a
notebook, and with films that one of them cannot read.
"""

import gc
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from cxrclip_nb.losses.contrastive import cxrclip_loss
from cxrclip_nb.model.clip import CXRCLIP, Embeddings
from cxrclip_nb.training.distributed import contrastive_backward, pieces

SHARE = 8  # studies of each of three ranks, 24 in all
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
    mine = slice(SHARE * rank, SHARE * (rank + 1))
    return {k: v[:, mine] for k, v in batch.items()}


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
            (3, 0.0, cxrclip_loss),
            (5, 0.0, lambda *e: cxrclip_loss(*e, chunk=7)),
            (3, 0.5, cxrclip_loss),
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
@pytest.mark.parametrize('micro, p', [(None, 0.0), (3, 0.0), (5, 0.0), (3, 0.5)])
def test_three_ranks_have_the_gradient_of_one_process(ranks, dtype, eps, micro, p):
    loss, g = alone(dtype, micro, p)
    for out in ranks:
        l, h = out[str((dtype, micro, p))]
        assert h.shape == g.shape and h.dtype == dtype
        assert (l / loss - 1).abs() <= eps and (
            (h - g).abs().max() / g.abs().max()
        ) <= eps


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


def test_two_processes_agree(tmp_path):
    """On a batch of which one can read nothing, on a signal that one has caught, on
    whether there is a state, on the model that they return, and on one that goes on
    with frozen parts, stopped or not.
    """
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
            str(PROGRAMS / 'two_processes.py'),
            str(tmp_path),
            str(PROGRAMS.parent.parent / 'data' / 'phantom_model'),
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert r.returncode == 0, r.stderr[-3000:]
    assert r.stdout.count('stopped by signal 15 after step 5 of 8') == 2, r.stdout
    assert r.stdout.count('resumed at step 5 of 8') == 2
    first, second = (
        json.loads((tmp_path / f'found{rank}.json').read_text()) for rank in (0, 1)
    )
    assert (first.pop('state_here'), second.pop('state_here')) == (True, False)
    assert first == second
    assert first['went_on_at'] == 2
    assert first['stopped'] == 5
    assert first['steps'] == 8
    assert 0 < first['empty'] < 8, 'some batches were passed over, some were not'
    assert first['step'] == 0, 'both started anew'
    assert first['stopped again'] == 5 and first['computed']
    assert first['resumed differs'] == []
    learnt = {name.rpartition('.')[0] for name in first['learnt']}
    assert all(
        name.startswith(('image_encoder.backbone.layer4', 'image_proj', 'text_proj'))
        for name in learnt - {''}
    ), learnt
    assert 'logit_scale' in first['learnt'] and len(learnt) > 3
    losses = pd.read_csv(tmp_path / 'stopped' / 'history.csv').valid.dropna()
    assert len(losses)
    best = CXRCLIP.from_pretrained(tmp_path / 'stopped' / 'best').state_dict()
    total = float(sum(t.double().abs().sum() for t in best.values()))
    assert first['weights'] == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize('launcher', ['FSDP', 'DeepSpeed'])
def test_a_launcher_that_cuts_the_model_is_refused(tmp_path, launcher):
    env = dict(os.environ, HF_HUB_OFFLINE='1', CUDA_VISIBLE_DEVICES='')
    env[f'ACCELERATE_USE_{launcher.upper()}'] = 'true'  # as `accelerate launch` does
    r = subprocess.run(
        [sys.executable, '-m', 'cxrclip_nb.training.loop', '--output_dir', 'out'],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert r.returncode == 1
    last = r.stderr.strip().splitlines()[-1]
    assert last.startswith(f'cxrclip-train: {launcher} is not supported'), r.stderr
    assert not list(tmp_path.iterdir()), 'nothing was written'
