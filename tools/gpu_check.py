#!/usr/bin/env python
"""Is a card used well, and correctly? One card, at most eight minutes:

    python tools/gpu_check.py --out gpu_check
    python tools/gpu_check.py --out gpu_check --only speed released

writes `check.json` and `check.md` into the folder. A section runs alone; one that
fails is named, the others go on, and the exit status is 1. Without a card, and with
`--small`, each section does the same with toys on the CPU: that says nothing about
speed, it keeps the script from rotting.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cxrclip_nb.core import rng_for
from cxrclip_nb.lab.scale import bert_flops, best_seconds, count_flops, matmul_rate
from cxrclip_nb.losses.contrastive import cxrclip_loss
from cxrclip_nb.model.clip import CXRCLIP, l2_normalize
from cxrclip_nb.model.hub import CXRCLIPConfig
from cxrclip_nb.model.packing import encode_grouped
from cxrclip_nb.training.config import ObjectiveOptions, OptimOptions
from cxrclip_nb.training.distributed import _Gather
from cxrclip_nb.training.step import make_optimizer, train_step

ROOT = Path(__file__).resolve().parent.parent
# operations a second in bfloat16, dense, as the maker says
PEAKS = {'H200': 989e12, 'H100': 989e12, 'A100': 312e12, 'L40S': 362e12, 'L4': 121e12}
BERT_BASE = dict(model_type='bert', vocab_size=28996)
BERT_TOY = dict(
    model_type='bert',
    vocab_size=28996,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=1,
    intermediate_size=128,
)
SWIN = 'swin_tiny_patch4_window7_224'
WAITS = 2  # a step may wait for the device so often


class Setting:
    "What is measured: on a card the paper's sizes, else toys."

    def __init__(self, small):
        self.small = small
        self.device = 'cpu' if small else 'cuda'
        self.size = 64 if small else 224
        self.bert = BERT_TOY if small else BERT_BASE
        self.batch_size = 4 if small else 128
        self.image_encoders = (
            ('test_resnet', 'test_vit') if small else ('resnet50', SWIN)
        )
        self.precision = 'bf16'
        self.rounds = 2 if small else 10

    @property
    def name(self):
        return (
            platform.processor() or 'cpu'
            if self.small
            else torch.cuda.get_device_name()
        )

    @property
    def peak(self):
        "Operations a second by the maker's word; None where we do not know the card."
        known = [rate for card, rate in PEAKS.items() if card in self.name.split()]
        return known[0] if known and not self.small else None


# ---- what all sections are made of ----
def text_lengths(n):
    "Tokens of n texts, distributed like sections of reports: 62 in the middle."
    drawn = rng_for(0, 'lengths').lognormal(np.log(62), 0.5, (2, n))
    return np.clip(drawn.astype(int), 8, 200)


def host_batch(setting, batch_size, width=None):
    "A batch as the loader makes it; texts padded to the longest, or to `width`."
    lengths = text_lengths(batch_size)
    width = width or int(lengths.max())
    rng = rng_for(0, 'batch')
    mask = torch.as_tensor(np.arange(width) < lengths[..., None]).long()
    ids = torch.as_tensor(rng.integers(5, 28000, (2, batch_size, width))) * mask
    shape = (2, batch_size, 1, setting.size, setting.size)
    images = torch.as_tensor(rng.integers(0, 256, shape, dtype=np.uint8))
    tensors = dict(images=images, input_ids=ids, attention_mask=mask)
    if setting.device == 'cuda':
        tensors = {name: x.pin_memory() for name, x in tensors.items()}
    return tensors | dict(
        lengths=lengths, study_ids=[str(i) for i in range(batch_size)]
    )


def to_device(batch, device):
    moved = dict(batch)
    for name, x in batch.items():
        if torch.is_tensor(x):
            moved[name] = x.to(device, non_blocking=True)
    return moved


def build_model(setting, image_encoder, **bert):
    torch.manual_seed(0)
    config = CXRCLIPConfig(
        image_encoder=image_encoder,
        image_size=setting.size,
        text_config=setting.bert | bert,
    )
    return CXRCLIP(config).to(setting.device).train()


def new_accelerator(setting, precision):
    "An Accelerator; the state of an earlier one, of another precision, is dropped."
    AcceleratorState._reset_state(True)
    return Accelerator(mixed_precision=precision, cpu=setting.small)


def free(setting):
    gc.collect()
    if setting.device == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb(setting):
    used = setting.device == 'cuda'
    return torch.cuda.max_memory_allocated() / 1e9 if used else float('nan')


def step_flops(setting, image_encoder, batch_size):
    "Operations of a training step: three times the forward pass, real tokens only."
    with torch.device('meta'):
        tower = timm.create_model(image_encoder, num_classes=0)
        film = torch.zeros(1, 3, setting.size, setting.size)
        of_film = count_flops(lambda: tower(film))
    shape = dict(
        width=setting.bert.get('hidden_size', 768),
        layers=setting.bert.get('num_hidden_layers', 12),
        inner=setting.bert.get('intermediate_size', 3072),
    )
    of_texts = [bert_flops(int(n), **shape) for n in text_lengths(batch_size).ravel()]
    return 3 * (2 * batch_size * of_film + sum(of_texts))


class Step:
    "A training step as `cxrclip-train` makes it, from a batch on the host."

    def __init__(self, setting, image_encoder, batch_size, change=None, **options):
        precision = options.pop('precision', setting.precision)
        plain_adam = options.pop('plain_adam', False)
        self.accelerator = new_accelerator(setting, precision)
        model = build_model(setting, image_encoder)
        if change:
            change(model)
        optim = OptimOptions(lr=1e-5, micro_batch=options.pop('micro_batch', None))
        optimizer = make_optimizer(model, optim.lr, optim.weight_decay)
        if plain_adam:
            optimizer = torch.optim.AdamW(optimizer.param_groups, foreach=False)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.optim, self.objective = optim, ObjectiveOptions(**options)
        self.batch = host_batch(setting, batch_size)
        self.step = 0

    def __call__(self):
        batch = to_device(self.batch, self.accelerator.device)
        how = (self.objective, self.optim, self.accelerator, self.step, 10_000)
        self.step += 1
        return train_step(self.model, self.optimizer, batch, *how)


def measure(setting, make, batch_size, image_encoder):
    "Studies a second, peak memory, use of the card."
    free(setting)
    step = make()
    seconds = best_seconds(step, setting.device, setting.rounds, warm_up=3)
    flops = step_flops(setting, image_encoder, batch_size) / seconds
    row = dict(batch=batch_size, studies_per_s=batch_size / seconds)
    row |= dict(peak_gb=peak_gb(setting), tflop_per_s=flops / 1e12)
    if setting.peak:
        row['mfu'] = flops / setting.peak
    return row


# ---- sections ----
def cells(setting):
    "All cells of the notebooks that are tagged `cuda`."
    rows = []
    for path in sorted(ROOT.glob('nbs/*/*.ipynb')):
        book = json.loads(path.read_text(encoding='utf-8'))
        code = [''.join(c['source']) for c in book['cells'] if c['cell_type'] == 'code']
        tagged = [text for text in code if text.startswith('#| cuda')]
        if tagged:
            rows.append(dict(what=path.stem, path=path, cells=len(tagged)))
    if setting.small:  # one chapter shows that the way to run them works
        rows = rows[:1]
    running = [(row, start_chapter(row.pop('path'))) for row in rows]
    for row, process in running:
        out, _ = process.communicate()
        row['ok'] = process.returncode == 0
        row['said'] = '' if row['ok'] else out[-600:]
    return rows


def start_chapter(path):
    command = [str(Path(sys.executable).with_name('nbdev_test'))]
    command += [
        '--path',
        str(path),
        '--flags',
        'cuda',
        '--n_workers',
        '0',
        '--do_print',
    ]
    env = dict(os.environ, OMP_NUM_THREADS='1', IN_TEST='1')
    how = dict(cwd=ROOT, env=env, text=True)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how
    )


def precision(setting):
    """A step's loss and gradient in half precision against float32, from one state.

    Allowed: eight units of the format's last place in the loss; in the direction of
    the gradient a cosine of .98 (bf16), .995 (fp16).
    """
    free(setting)
    still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = build_model(setting, setting.image_encoders[0], **still)
    batch = to_device(host_batch(setting, min(setting.batch_size, 32)), setting.device)
    inputs = {k: batch[k] for k in ('images', 'input_ids', 'attention_mask', 'lengths')}

    def loss_and_gradient(dtype):
        model.zero_grad()
        half = dtype != torch.float32
        with torch.autocast(setting.device, dtype=dtype, enabled=half):
            embeddings = model(**inputs)
        loss = cxrclip_loss(*embeddings[:3])['total']
        factor = 2.0**10 if dtype == torch.float16 else 1.0  # as a gradient scaler has
        (loss * factor).backward()
        grads = [p.grad.flatten().float() for p in model.parameters()]
        return loss.item(), torch.cat(grads) / factor

    exact_loss, exact = loss_and_gradient(torch.float32)
    rows = []
    for name, cosine_at_least in (('bfloat16', 0.98), ('float16', 0.995)):
        dtype = getattr(torch, name)
        loss, grad = loss_and_gradient(dtype)
        off = abs(loss - exact_loss) / exact_loss
        cosine = F.cosine_similarity(grad.double(), exact.double(), dim=0).item()
        ok = off <= 8 * torch.finfo(dtype).eps and cosine >= cosine_at_least
        rows.append(dict(what=name, loss_off=off, gradient_cosine=cosine, ok=ok))
    return rows


def speed(setting):
    "Both towers at the paper's batch, and at the largest that fits."
    rows = []
    for name in setting.image_encoders:
        batch_size = setting.batch_size
        while True:
            try:
                row = measure(
                    setting, lambda: Step(setting, name, batch_size), batch_size, name
                )
            except torch.OutOfMemoryError:
                break
            found = [r for r in rows if r['what'] == name]
            if len(found) == 2:  # the paper's batch, and the largest so far
                rows.remove(found[1])
            rows.append(dict(what=name) | row)
            batch_size *= 2
            if setting.small and batch_size > 8 or batch_size > 1024:
                break
    return rows


def text_way(encode):
    "A change of the model: all its texts take another way through the tower."

    def change(model):
        encoder = model.text_encoder
        encoder.forward = lambda ids, mask, lengths: encode(encoder, ids, mask, lengths)

    return change


def compiled(model):
    # toys only try the tracing: a C++ compiler would take a minute
    backend = 'inductor' if model.device.type == 'cuda' else 'eager'
    model.image_encoder.compile(backend=backend)


def planar(model):
    encoder = model.image_encoder
    encoder.to(memory_format=torch.contiguous_format)
    encoder.register_forward_pre_hook(lambda m, x: (x[0].contiguous(),))


WAYS = {
    'as it is': {},
    'AdamW not fused': dict(plain_adam=True),
    'image tower compiled': dict(change=compiled),
    'films planar': dict(change=planar),
    'float32': dict(precision='no'),
    'texts in four groups': dict(change=text_way(encode_grouped)),
    'texts to the longest': dict(
        change=text_way(lambda enc, ids, mask, lengths: enc.encode(ids, mask))
    ),
    'loss in rows of 64': dict(loss_chunk=64),
    'half at a time': dict(micro_batch='half'),
    'layers recomputed': dict(change=lambda model: model.save_memory()),
}


def ways(setting):
    "Each switch alone, against the training as it is."
    name, batch_size = setting.image_encoders[0], setting.batch_size
    rows = []
    for what, options in WAYS.items():
        options = dict(options)
        if options.get('micro_batch') == 'half':
            options['micro_batch'] = batch_size // 2
        row = measure(
            setting,
            lambda: Step(setting, name, batch_size, **options),
            batch_size,
            name,
        )
        rows.append(dict(what=what) | row)
    for row in rows:
        row['times'] = row['studies_per_s'] / rows[0]['studies_per_s']
    return rows


def loss(setting):
    "The readable loss against the one in rows: time and memory, forward and backward."
    rows = []
    for n in (16, 32) if setting.small else (1024, 8192, 24576):
        for what, chunk in (
            ('readable', None),
            ('in rows', 8 if setting.small else 512),
        ):
            free(setting)
            shape = (2, 2, n, 512)
            x = torch.randn(shape, device=setting.device)
            image, text = l2_normalize(x).requires_grad_()
            scale = torch.tensor(14.3, device=setting.device)

            def run():
                cxrclip_loss(image, text, scale, chunk=chunk)['total'].backward()

            try:
                seconds = best_seconds(run, setting.device, 3)
            except torch.OutOfMemoryError:
                rows.append(dict(what=f'{what}, {n} studies', said='out of memory'))
                continue
            row = dict(what=f'{what}, {n} studies', ms=1e3 * seconds)
            rows.append(row | dict(peak_gb=peak_gb(setting)))
    return rows


class Fetches(TorchDispatchMode):
    "Counts where Python asks for a number of the device."

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def waits(setting):
    "How often a step waits for the device."
    free(setting)
    step = Step(setting, setting.image_encoders[0], min(setting.batch_size, 32))
    step()
    if setting.device == 'cpu':
        with Fetches() as fetches:
            step()
        ok = fetches.count <= WAITS
        return [dict(what='numbers fetched', count=fetches.count, ok=ok)]
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            step()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    caught = [w for w in caught if 'synchroniz' in str(w.message)]
    where = sorted({f'{Path(w.filename).name}:{w.lineno}' for w in caught})
    ok = len(caught) <= WAITS
    return [dict(what='waits', count=len(caught), ok=ok, said=', '.join(where))]


class Released:
    """A step as the released training makes it.

    Films as normalised float32 in three channels from the host, texts padded to 256,
    both views, AdamW not fused, planar films, the same mixed precision and model.
    """

    def __init__(self, setting, image_encoder, batch_size):
        self.setting = setting
        self.model = build_model(setting, image_encoder)
        self.model.image_encoder.to(memory_format=torch.contiguous_format)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-5, foreach=False
        )
        batch = host_batch(setting, batch_size, width=256)
        films = batch['images'].float().div(255).expand(-1, -1, 3, -1, -1)
        self.films = films.sub(0.5).div(0.25).contiguous()
        self.ids, self.mask = batch['input_ids'], batch['attention_mask']
        if setting.device == 'cuda':
            self.films = self.films.pin_memory()

    def encode(self):
        device = self.setting.device
        image, text = [], []
        for films, ids, mask in zip(self.films, self.ids, self.mask):
            films, ids, mask = (
                x.to(device, non_blocking=True) for x in (films, ids, mask)
            )
            features = self.model.image_encoder(films)
            image.append(l2_normalize(self.model.image_projection(features)))
            features = self.model.text_encoder.encode(ids, mask)
            text.append(l2_normalize(self.model.text_projection(features)))
        return torch.stack(image), torch.stack(text)

    def __call__(self):
        self.optimizer.zero_grad()
        with torch.autocast(self.setting.device, dtype=torch.bfloat16):
            image, text = self.encode()
        total = cxrclip_loss(image, text, self.model.scale)['total']
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return total.item()


def released(setting):
    "The released way and ours, in turns."
    rows = []
    for name in setting.image_encoders:
        batch_size = setting.batch_size
        made = {
            'the released way': lambda: Released(setting, name, batch_size),
            'ours': lambda: Step(setting, name, batch_size),
        }
        pair = []
        for what, make in made.items():
            row = measure(setting, make, batch_size, name)
            pair.append(dict(what=f'{name}, {what}') | row)
        for row in pair:
            row['times'] = row['studies_per_s'] / pair[0]['studies_per_s']
        rows += pair
    return rows


def loader(setting):
    "The whole command on phantoms: studies a second, and the share of time waiting."
    rows = []
    root = Path(setting.folder) / 'loader'
    options = dict(n_phantoms=80, image_size=64, batch_size=16, max_steps=3)
    options |= dict(image_encoder='test_resnet', vocab_size=600, mixed_precision='no')
    if not setting.small:
        options |= dict(n_phantoms=1200, image_size=224, batch_size=128, max_steps=40)
        options |= dict(image_encoder='resnet50', mixed_precision='bf16')
    for workers in (0,) if setting.small else (0, 4, 8, 15):
        out = root / f'run{workers}'
        command = [sys.executable, '-m', 'cxrclip_nb.training.loop', '--quiet']
        for key, value in options.items():
            command += [f'--{key}', str(value)]
        command += ['--num_workers', str(workers), '--root', str(root / 'data')]
        command += ['--output_dir', str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-1500:])
        history = pd.read_csv(out / 'history.csv')
        warm = history[len(history) // 3 :]
        seconds = warm.seconds.mean()
        row = dict(what=f'{workers} workers', waiting=(warm.waited.mean() / seconds))
        rows.append(row | dict(studies_per_s=options['batch_size'] / seconds))
    return rows


def nccl(setting):
    "A process group of one: the gather and its way back, and a wrapped model."
    backend = 'gloo' if setting.small else 'nccl'
    store = dist.TCPStore('127.0.0.1', 0, 1, True)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        x = torch.randn(2, 8, 16, device=setting.device, requires_grad=True)
        _Gather.apply(x).square().sum().backward()
        gathered = torch.allclose(x.grad, 2 * x)
        torch.manual_seed(0)
        plain = nn.Linear(16, 4).to(setting.device)
        wrapped = nn.parallel.DistributedDataParallel(plain)
        wrapped(x.detach()).square().sum().backward()
        by_ddp = plain.weight.grad.clone()
        plain.zero_grad()
        plain(x.detach()).square().sum().backward()
        same = torch.allclose(by_ddp, plain.weight.grad)
        dist.barrier()
        del wrapped
        gc.collect()
    finally:
        dist.destroy_process_group()
    return [dict(what='gather', ok=gathered), dict(what='wrapped model', ok=same)]


SECTIONS = dict(
    cells=cells,
    precision=precision,
    speed=speed,
    released=released,
    ways=ways,
    loss=loss,
    waits=waits,
    loader=loader,
    nccl=nccl,
)


# ---- running them, and writing what they found ----
def run_section(section, setting):
    start = time.perf_counter()
    result = dict(rows=[], error=None)
    try:
        result['rows'] = section(setting)
    except Exception:
        result['error'] = traceback.format_exc()[-2000:]
    result['seconds'] = time.perf_counter() - start
    return result


def failed(result):
    return result['error'] or not all(row.get('ok', True) for row in result['rows'])


def shown(value):
    if isinstance(value, float):
        return '' if np.isnan(value) else f'{value:.4g}'
    return str(value).replace('\n', ' ')[-200:]


def as_markdown(report):
    lines = ['# GPU check', '', f'{report["device"]}; {report["versions"]}.']
    if 'large_product_tflop_per_s' in report:
        rate = report['large_product_tflop_per_s']
        lines.append(f'A large product in bfloat16: {rate:.0f} TFLOP/s.')
    for name, result in report['sections'].items():
        verdict = 'FAILED' if failed(result) else 'ok'
        lines += ['', f'## {name} ({result["seconds"]:.0f} s, {verdict})', '']
        lines += [SECTIONS[name].__doc__.strip().splitlines()[0], '']
        if result['error']:
            lines += ['```', result['error'].strip(), '```']
        columns = list(dict.fromkeys(key for row in result['rows'] for key in row))
        if columns:
            lines += [f'| {" | ".join(columns)} |', '| --- ' * len(columns) + '|']
        for row in result['rows']:
            lines.append(f'| {" | ".join(shown(row.get(c, "")) for c in columns)} |')
    return '\n'.join(lines) + '\n'


def write(report, folder):
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, default=str)
    (folder / 'check.json').write_text(text, encoding='utf-8')
    (folder / 'check.md').write_text(as_markdown(report), encoding='utf-8')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('gpu_check'), help='folder')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument('--small', action='store_true', help='toys, on the CPU')
    args = parser.parse_args()
    if not args.small and not torch.cuda.is_available():
        parser.error('no card is to be seen; --small runs toys on the CPU')
    setting = Setting(args.small)
    setting.folder = args.out.resolve()
    versions = f'torch {torch.__version__}, timm {timm.__version__}'
    report = dict(device=setting.name, versions=versions, small=args.small, sections={})
    if not args.small:
        rate = matmul_rate('cuda', 8192, torch.bfloat16)
        report['large_product_tflop_per_s'] = rate / 1e12
    for name in args.only:
        print(f'{name} ...', flush=True)
        result = run_section(SECTIONS[name], setting)
        report['sections'][name] = result
        print(
            f'{name}: {"FAILED" if failed(result) else "ok"}, {result["seconds"]:.0f} s'
        )
        write(report, args.out)
    print((args.out / 'check.md').read_text(encoding='utf-8'))
    sys.exit(any(failed(r) for r in report['sections'].values()))


if __name__ == '__main__':
    main()
