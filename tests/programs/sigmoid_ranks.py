"""The sigmoid objective and its gradient on one process and on two; started by
`torchrun`, each rank leaves what it found in the folder where it runs.
"""

import gc
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from cxrclip_nb.core import seed_everything
from cxrclip_nb.losses.others import label_targets, sigmoid_objective
from cxrclip_nb.model.clip import Embeddings
from cxrclip_nb.training.distributed import contrastive_backward, gather


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Linear(6, 8)
        self.text = nn.Linear(6, 8)
        self.scale = nn.Parameter(torch.tensor(10.0))  # first in the list
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, images, input_ids):
        image = nn.functional.normalize(self.image(images), dim=-1)
        text = nn.functional.normalize(self.text(input_ids), dim=-1)
        return Embeddings(image, text, self.scale * 1.0, self.bias * 1.0)


def grads(world, rank, micro_batch):
    "Loss, and the gradient that a rank has after averaging."
    n = 24 // world
    mine = slice(n * rank, n * (rank + 1))
    seed_everything(0)
    model = Towers().double()
    x = torch.randn(2, 24, 6, dtype=torch.float64)
    labels = torch.randint(-1, 2, (24, 4)).double()
    targets = label_targets(gather(labels[None, mine])[0])
    batch = dict(images=x[:, mine], input_ids=x.flip(-1)[:, mine])
    parallel = nn.parallel.DistributedDataParallel
    wrapped = parallel(model) if world > 1 else model
    loss_fn = partial(sigmoid_objective, targets=targets, chunk=micro_batch)
    losses = contrastive_backward(wrapped, batch, loss_fn, micro_batch)
    return losses['total'], torch.cat([w.grad.flatten() for w in model.parameters()])


# before there is a group each process is alone
found = {'one': grads(1, 0, None), 'one in pieces': grads(1, 0, 5)}
dist.init_process_group('gloo')
rank = dist.get_rank()
found |= {'two': grads(2, rank, None), 'two in pieces': grads(2, rank, 5)}
torch.save(found, f'{rank}.pt')
dist.barrier()
gc.collect()
dist.destroy_process_group()
