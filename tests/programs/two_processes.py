"""What two processes must agree on; started by `torchrun`, leaves findings in files.

Films that one of them cannot read, a signal that one of them catches, a state that only
one of them has, the best model that only one of them loads, a model that goes on with
frozen parts.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from cxrclip_nb.core import log_to_terminal
from cxrclip_nb.data.phantoms import make_phantoms
from cxrclip_nb.data.studies import save_studies
from cxrclip_nb.model.clip import CXRCLIP
from cxrclip_nb.training.config import TrainConfig
from cxrclip_nb.training.loop import Trainer, train
from cxrclip_nb.training.resume import TrainingStopped

out = Path(sys.argv[1])
log_to_terminal()
dist.init_process_group('gloo')
rank = dist.get_rank()


def config(name, **changes):
    options = dict(
        studies=str(out / 'studies.parquet'),
        root=str(out / 'films'),
        output_dir=str(out / name),
        image_encoder='test_resnet',
        embed_dim=32,
        vocab_size=400,
        batch_size=4,
        max_steps=8,
    )
    options |= changes
    return TrainConfig(**{k: v for k, v in options.items() if v is not None})


def broken_films():
    "Sixty phantoms, most films of which cannot be read."
    studies = make_phantoms(out / 'films', n_studies=60, size=128, seed=0)
    for split in ('train', 'valid', 'test'):
        (out / 'films' / f'broken_{split}.png').write_text('no film')
    for row in studies.index[studies.index % 5 < 3]:
        studies.at[row, 'images'] = [f'broken_{studies.split[row]}.png']
        studies.at[row, 'views'] = ['PA']
    save_studies(studies, out / 'studies.parquet')


class Stopping(Trainer):
    "The second process catches SIGTERM after the fifth step."

    def _take_step(self, *args):
        super()._take_step(*args)
        if rank == 1 and self.step == 5:
            self.stop.caught = 15


def weights_of(model):
    return float(sum(t.double().abs().sum() for t in model.state_dict().values()))


if rank == 0:
    broken_films()
dist.barrier()
found = {}

try:
    run = Stopping(config('stopped', on_bad_film='skip', keep='best'))
    run.begin()
    run.fit()
except TrainingStopped as e:
    found['stopped'] = e.step
result = train(config('stopped', on_bad_film='skip', keep='best', resume=True))
found['weights'] = weights_of(result.model)
found['steps'] = len(result.history)
found['empty'] = int(result.history.total.isna().sum())

# each has a folder of its own; only the second one's holds something like a state
(out / 'alone1').mkdir(exist_ok=True)
(out / 'alone1' / 'last.pt').write_text('of another run')
phantoms = dict(studies=None, n_phantoms=40, root=str(out), max_steps=2)
run = Trainer(config(f'alone{rank}', resume=True, **phantoms))
run.begin()
found['step'] = run.step

# a model that goes on, stopped and left alone
going_on = dict(
    start_from=sys.argv[2],
    train_text='none',
    train_image='last:1',
    embed_dim=None,
    vocab_size=None,
    on_bad_film='skip',
)
try:
    run = Stopping(config('going_on', **going_on))
    run.begin()
    run.fit()
except TrainingStopped as e:
    found['stopped again'] = e.step
resumed = train(config('going_on', **going_on, resume=True)).model.state_dict()
straight = train(config('straight', **going_on)).model.state_dict()
before = CXRCLIP.from_pretrained(sys.argv[2]).state_dict()
found['resumed differs'] = [k for k, x in straight.items() if not x.equal(resumed[k])]
found['learnt'] = [k for k, x in before.items() if not x.equal(straight[k])]
found['computed'] = run.text_features.computed > 0

# machines without a common disk: the state is in the main process's folder alone
mine = config(f'mine{rank}', resume=True, **phantoms)
train(mine)
run = Trainer(mine)
run.begin()
found['went_on_at'] = run.step
found['went_on_with'] = weights_of(run.unwrapped)
found['state_here'] = (out / f'mine{rank}' / 'last.pt').exists()

(out / f'found{rank}.json').write_text(json.dumps(found))
