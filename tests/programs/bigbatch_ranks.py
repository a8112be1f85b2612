"""Loss and gradient of 24 studies that two ranks share, encoded in pieces of 5 and at
once: `torchrun --nproc_per_node=2 bigbatch_ranks.py FOLDER`; each rank leaves a file.
"""

import gc
import sys

import torch
import torch.distributed as dist
from torch import nn

from cxrclip_nb.core import seed_everything
from cxrclip_nb.losses.contrastive import cxrclip_loss
from cxrclip_nb.model.clip import Embeddings
from cxrclip_nb.training.distributed import contrastive_backward


def tower():
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 8))


class Towers(nn.Module):
    "The small model of the chapter `bigbatch`, without dropout."

    def __init__(self):
        super().__init__()
        self.image = tower()
        self.text = tower()
        self.logit_scale = nn.Parameter(torch.tensor(2.6))

    def forward(self, images, input_ids):
        image = nn.functional.normalize(self.image(images), dim=-1)
        text = nn.functional.normalize(self.text(input_ids), dim=-1)
        return Embeddings(image, text, self.logit_scale.exp())


def loss_and_gradient(mine, micro_batch):
    "Of the studies of this rank, and those of the others."
    seed_everything(0)
    model = Towers().double()
    x = torch.randn(2, 24, 6, dtype=torch.float64)
    batch = dict(images=x[:, mine], input_ids=x.flip(-1)[:, mine])
    wrapped = nn.parallel.DistributedDataParallel(model)
    losses = contrastive_backward(wrapped, batch, cxrclip_loss, micro_batch)
    return losses['total'], torch.cat([w.grad.flatten() for w in model.parameters()])


if __name__ == '__main__':
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    mine = slice(12 * rank, 12 * (rank + 1))
    found = {str(m): loss_and_gradient(mine, m) for m in (5, None)}
    torch.save(found, f'{sys.argv[1]}/{rank}.pt')
    dist.barrier()
    # a wrapped model that outlives its group ends the process with an abort
    gc.collect()
    dist.destroy_process_group()
