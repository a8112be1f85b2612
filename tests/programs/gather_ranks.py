"""Loss and gradient of toy studies that the ranks share and gather:
`torchrun --nproc_per_node=W gather_ranks.py FILE`; the first rank leaves the file.
"""

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F

from cxrclip_nb.losses.contrastive import cxrclip_loss
from cxrclip_nb.testing.chapter import toy_pairs
from cxrclip_nb.training.distributed import gather


def loss_and_gradient(mine, dtype):
    "Loss of all studies; gradient of the shared weight, averaged over the ranks."
    image, text = (x[:, mine] for x in toy_pairs(dtype))
    w = (1.5 * torch.eye(3, dtype=dtype)).requires_grad_()
    image = gather(F.normalize(image @ w, dim=-1))
    text = gather(F.normalize(text @ w, dim=-1))
    loss = cxrclip_loss(image, text, torch.tensor(5.0, dtype=dtype))['total']
    loss.backward()
    dist.all_reduce(w.grad)
    return loss.detach(), w.grad / dist.get_world_size()


if __name__ == '__main__':
    dist.init_process_group('gloo')
    rank, world = dist.get_rank(), dist.get_world_size()
    share = 4 // world  # of three ranks, a study each
    mine = slice(share * rank, share * (rank + 1))
    found = {}
    for dtype in (torch.float64, torch.float32):
        found[f'{world} {dtype}'] = loss_and_gradient(mine, dtype)
    if rank == 0:
        torch.save(found, sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()
