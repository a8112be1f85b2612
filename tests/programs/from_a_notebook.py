"What a notebook's cell hands to `notebook_launcher`: a run on two processes."

import sys
from pathlib import Path

import torch.distributed as dist
from accelerate import notebook_launcher

from cxrclip_nb.training.config import TrainConfig
from cxrclip_nb.training.loop import train


def cell(out):
    config = TrainConfig(
        n_phantoms=40,
        root=f'{out}/data',
        output_dir=f'{out}/run',
        image_encoder='test_vit',
        embed_dim=32,
        vocab_size=400,
        batch_size=8,
        max_steps=2,
    )
    train(config)
    Path(f'{out}/rank{dist.get_rank()}of{dist.get_world_size()}').touch()


if __name__ == '__main__':
    notebook_launcher(cell, (sys.argv[1],), num_processes=2, mixed_precision='no')
