"A plain run; the same with cut weights, stopped after five steps; resumed; read whole."

import os
import sys

import torch.distributed as dist

import cxrclip_nb.training.loop as t

out = sys.argv[1]
train_batch = t._train_batch


def config(name, **changes):
    options = dict(
        n_phantoms=60,
        root=f'{out}/data',
        output_dir=f'{out}/{name}',
        image_encoder='test_resnet',
        embed_dim=32,
        vocab_size=400,
        batch_size=8,
        micro_batch=2,
        max_steps=8,
    )
    return t.TrainConfig(**(options | changes))


def stop_after_five(run, *args):
    train_batch(run, *args)
    run.stop.caught = 15 if run.step == 5 else 0  # SIGTERM


t.train(config('plain'))

t._train_batch = stop_after_five
try:
    t.train(config('cut', shard=True, save_memory=True))
    raise AssertionError('not stopped')
except t.Stopped as e:
    assert e.step == 5
t._train_batch = train_batch

# as `accelerate launch --use_fsdp` asks
os.environ['ACCELERATE_USE_FSDP'] = 'true'
run = t.start_run(config('cut', resume=True))
assert run.config.shard and run.full_copy is not None
t.begin(run)
t.fit(run)
t.finish(run)
del os.environ['ACCELERATE_USE_FSDP']

# once more, whole: its state is read, nothing is left to do
t.train(config('cut', resume=True))
dist.destroy_process_group()
