"""Seconds of an all-gather over gloo, by bytes per rank, printed as JSON:
`torchrun --nproc_per_node=2 ring.py`.
"""

import json
import time

import torch
import torch.distributed as dist


def best_seconds(x, rounds=12):
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    best = float('inf')
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        dist.all_gather(parts, x)
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == '__main__':
    dist.init_process_group('gloo')
    sizes = [1024 * kb for kb in (1, 16, 256, 1024, 4096, 16384, 65536)]
    seconds = {size: best_seconds(torch.zeros(size // 4)) for size in sizes}
    if dist.get_rank() == 0:
        print(json.dumps(seconds))
    dist.destroy_process_group()
