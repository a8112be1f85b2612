#!/usr/bin/env python
"""What loading films costs: the grey path of this project against the usual RGB
pipeline, two training views of one file, on one core.

    # phantoms: 512-px files, full-size files, a cache of 288 px
    python tools/bench_films.py
    python tools/bench_films.py --root FOLDER         # JPEG films of your own besides
    python tools/bench_films.py --json result.json    # the numbers, for a plot

All variants are interleaved, film by film, in one process with one thread; a film's
time is the CPU time of that thread, the best of --repeats. The usual pipeline opens
the file for each view, converts it to RGB, and applies RandomResizedCrop, CLAHE on
the L of LAB in half of the cases, ColorJitter and normalisation to float32. Ours is
`study_images`: uint8 grey out; jitter and normalisation, which run on the device,
are timed apart.
"""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import cv2
import numpy as np
import pandas as pd
import torch
import torchvision.transforms as T
from PIL import Image
from torchvision.transforms import functional as TF

from cxrclip_nb.core import rng_for
from cxrclip_nb.data.augment import (
    clahe,
    crop_resize,
    draw_view,
    jitter,
    normalise,
    scaled_box,
)
from cxrclip_nb.data.batches import (
    StudyDataset,
    make_loader,
    study_images,
    train_tokenizer,
)
from cxrclip_nb.data.dicom import strict_jpeg
from cxrclip_nb.data.films import cache_films, open_films, read_film
from cxrclip_nb.data.phantoms import make_phantoms
from cxrclip_nb.data.sampling import sample_views

# seconds of this thread alone: other programs disturb it little
clock = time.thread_time
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# rows, columns, JPEG quality, grain: bytes as of real films
SIZES = dict(small=(614, 512, 90, 1.8), full=(3056, 2544, 95, 2.3))
COLUMNS = dict(small='512-px files', full='full-size files', cache='288-px cache')

# ---------------------------------------------------------------- sources


def write_films(folder, n, seed=0):
    """The same phantoms twice: as 512-px and as full-size JPEGs with film-like grain;
    names of the films.
    """
    studies = make_phantoms(folder / 'phantoms', n_studies=n, size=512, seed=seed)
    for k, film in enumerate(studies.images.str[0]):
        drawn = read_film(folder / 'phantoms' / film)
        for name, (h, w, quality, grain) in SIZES.items():
            noise = cv2.GaussianBlur(
                rng_for(seed, name, k).standard_normal((h, w), dtype=np.float32),
                (0, 0),
                0.7,
            )
            noisy = cv2.resize(drawn, (w, h), interpolation=cv2.INTER_CUBIC) + noise * (
                grain / noise.std()
            )
            (folder / name).mkdir(exist_ok=True)
            cv2.imwrite(
                str(folder / name / f'{k}.jpg'),
                noisy.clip(0, 255).astype(np.uint8),
                [cv2.IMWRITE_JPEG_QUALITY, quality],
            )
    return [f'{k}.jpg' for k in range(n)]


def table_of(films):
    "A study table with one study a film."
    n = len(films)
    return pd.DataFrame(
        dict(
            study_id=[f's{k}' for k in range(n)],
            patient_id=[f'p{k}' for k in range(n)],
            source='bench',
            split='train',
            images=[[f] for f in films],
            views=[['PA']] * n,
            texts=[['The heart is normal. The lungs are clear.']] * n,
            augmented=[[]] * n,
            positive=[[]] * n,
            negative=[[]] * n,
            uncertain=[[]] * n,
        )
    )


# ---------------------------------------------------------------- the two pipelines,
# stage by stage


class Stages(dict):
    """Seconds by stage: `stages.add(name, since)` books the time since a moment and
    returns the present one.
    """

    def add(self, name, since):
        now = clock()
        self[name] = self.get(name, 0) + now - since
        return now


crop_rgb, jitter_rgb = (
    T.RandomResizedCrop(224, (0.8, 1.1), (3 / 4, 4 / 3)),
    T.ColorJitter(0.1, 0.2, 0.2, 0.2),
)


def clahe_rgb(image, clip):
    lab = cv2.cvtColor(np.array(image), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clip, (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return Image.fromarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))


def usual(path, seed, stages=None, jitter_with=jitter_rgb):
    "Two views by the usual RGB pipeline: float32 [2, 3, 224, 224]."
    stages, views = Stages() if stages is None else stages, []
    random.seed(seed)
    torch.manual_seed(seed)
    for _ in range(2):
        t = clock()
        image = Image.open(path).convert('RGB')
        t = stages.add('decode', t)
        image = crop_rgb(image)
        t = stages.add('crop, resize', t)
        if random.random() < 0.5:
            image = clahe_rgb(image, random.uniform(1, 4))
        t = stages.add('CLAHE', t)
        image = jitter_with(image)
        t = stages.add('jitter', t)
        views.append(TF.normalize(TF.to_tensor(image), MEAN, STD))
        stages.add('to tensor', t)
    return torch.stack(views)


def ours(read, film, seed, detail=1.0):
    return study_images(
        dict(study_id='s', images=[film], views=['PA']),
        read,
        224,
        rng_for(seed),
        detail,
    )


def our_stages(read, film, seed, stages, detail=1.0):
    "The steps of `study_images` for one film, each timed."
    t = clock()
    rng = rng_for(seed)
    sample_views([film], ['PA'], rng)
    t = stages.add('draw', t)
    full = read.size(film)
    t = stages.add('header', t)
    drawn = [draw_view(*full, rng) for _ in range(2)]
    t = stages.add('draw', t)
    least = min(min(box[2:]) for box, _ in drawn)
    small = read(film, int(detail * 224 * min(full) / least) + 1)
    t = stages.add('decode', t)
    for box, clip in drawn:
        view = crop_resize(small, scaled_box(box, full, small.shape), 224)
        t = stages.add('crop, resize', t)
        if clip:
            clahe(view, clip)
            t = stages.add('CLAHE', t)


def on_device(views, generator):
    "Jitter and normalisation of a batch: uint8 [N, 1, H, W] -> float [N, 3, H, W]."
    return normalise(jitter(views, generator), MEAN, STD)


# ---------------------------------------------------------------- measurements


def best_times(variants, films, repeats):
    """{name: call(film, seed)} -> {name: ms a film}, interleaved, best of the repeats,
    mean over the films.
    """
    best = {name: np.full(len(films), np.inf) for name in variants}
    for r in range(repeats + 1):  # the first round warms up
        for k, film in enumerate(films):
            for name, call in variants.items():
                t = clock()
                call(film, k)
                t = clock() - t
                if r:
                    best[name][k] = min(best[name][k], t)
    return {name: float(1000 * t.mean()) for name, t in best.items()}


def profile(call, films, repeats):
    "Mean ms a film by stage, of the fastest repeat."
    runs = []
    for _ in range(repeats):
        stages = Stages()
        for k, film in enumerate(films):
            call(film, k, stages)
        runs.append(stages)
    fastest = min(runs, key=lambda s: sum(s.values()))
    return {name: 1000 * s / len(films) for name, s in fastest.items()}


def differences(read, film, seeds=10, detail=1.0):
    """Mean difference in grey levels of crops of the scaled and of the full film;
    scale; and the same with the box rounded.
    """
    whole = read(film)
    H, W = whole.shape
    rows = []
    for seed in range(seeds):
        box, _ = draw_view(H, W, rng_for(seed))
        small = read(film, int(detail * 224 * min(H, W) / min(box[2:])) + 1)
        exact, b = (
            crop_resize(whole, box, 224).astype(int),
            scaled_box(box, (H, W), small.shape),
        )
        top, left = (round(v) for v in b[:2])
        rounded = (
            top,
            left,
            min(round(b[2]), small.shape[0] - top),
            min(round(b[3]), small.shape[1] - left),
        )
        rows.append(
            [np.abs(crop_resize(small, x, 224) - exact).mean() for x in (b, rounded)]
            + [round(H / small.shape[0])]
        )
    return np.array(rows)


def rate(data, tokenizer, workers, batches=6, batch_size=16):
    "Studies a second through the whole loader, first batch not counted."
    loader = iter(make_loader(data, tokenizer, batch_size, num_workers=workers))
    next(loader)
    t = time.perf_counter()
    n = sum(len(next(loader)['study_ids']) for _ in range(batches - 1))
    return n / (time.perf_counter() - t)


# ---------------------------------------------------------------- the whole


def open_all(folder, n):
    "Sources of the benchmark: name -> reader; films."
    films = write_films(folder, n)
    readers = {name: open_films(folder / name) for name in SIZES}
    cache_films(table_of(films), folder / 'full', folder / 'cache', side=288)
    readers['cache'] = open_films(folder / 'cache')
    return readers, films


def measure_ratios(readers, folder, films, repeats):
    """ms a film (two views) of each variant; those of one size of film are interleaved
    with one another.
    """
    plain = T.ColorJitter(0.1, 0.2)
    generator = torch.Generator().manual_seed(0)
    device, ms = {}, {}
    for size, names in dict(small=('small', 'cache'), full=('full',)).items():

        def path(film, size=size):
            return folder / size / film

        variants = {
            f'usual, {size}': lambda f, k: usual(path(f), k),
            f'usual without hue and saturation, {size}': lambda f, k: usual(
                path(f), k, jitter_with=plain
            ),
            f'bare decode, {size}': lambda f, k: cv2.imread(
                str(path(f)), cv2.IMREAD_GRAYSCALE
            ),
            f'strict decode, {size}': lambda f, k: strict_jpeg(path(f).read_bytes()),
        }
        for name in names:
            variants[f'ours, {name}'] = lambda f, k, r=readers[name]: (
                device.__setitem__(0, ours(r, f, k))
            )
        if size == 'small':
            variants['ours, small, at twice the detail'] = lambda f, k: ours(
                readers['small'], f, k, detail=2.0
            )
            variants['device step (jitter, normalise)'] = lambda f, k: on_device(
                torch.from_numpy(device[0])[:, None], generator
            )
        ms |= best_times(variants, films, repeats)
    return ms


def summary(ms, name):
    "A source in one row."
    rgb = ms[f'usual, {name if name in SIZES else "small"}']
    both = ms[f'ours, {name}'] + ms['device step (jitter, normalise)']
    row = {
        'ours, ms': ms[f'ours, {name}'],
        'usual, ms': rgb,
        'times faster': rgb / ms[f'ours, {name}'],
        'with device step': rgb / both,
    }
    row['usual without hue/sat.'] = (
        ms[f'usual without hue and saturation, {name if name in SIZES else "small"}']
        / ms[f'ours, {name}']
    )
    row['than usual from full size'] = ms['usual, full'] / ms[f'ours, {name}']
    if name in SIZES:
        row['of the bare decode'] = ms[f'ours, {name}'] / ms[f'bare decode, {name}']
    return row


def measure_all(folder, n, repeats, workers):
    "Everything as one dict of numbers, and the table."
    readers, films = open_all(folder, n)
    ms = measure_ratios(readers, folder, films, repeats)
    result = dict(
        ms=ms,
        stages={},
        bytes_a_film={
            name: np.mean([(folder / name / f).stat().st_size for f in films])
            for name in readers
        },
    )
    result['bytes_a_view'] = dict(ours=224 * 224, usual=224 * 224 * 3 * 4)
    for name in SIZES:
        result['stages'][f'usual, {name}'] = profile(
            lambda f, k, s: usual(folder / name / f, k, s), films, repeats
        )
    for name, read in readers.items():
        result['stages'][f'ours, {name}'] = profile(
            lambda f, k, s: our_stages(read, f, k, s), films, repeats
        )
    apart = {
        name: np.concatenate([differences(readers[name], f) for f in films[:4]])
        for name in SIZES
    }
    result['grey_levels'] = {
        name: dict(
            zip(('fractions', 'rounded'), d[:, :2].mean(0).tolist()),
            scales=sorted(set(d[:, 2].tolist())),
        )
        for name, d in apart.items()
    }
    result['studies_a_second'] = {
        name: {w: measure_rate(folder / name, films, w) for w in workers}
        for name in readers
    }
    result['table'] = {COLUMNS[name]: summary(ms, name) for name in readers}
    return result


def measure_rate(root, films, workers):
    data = StudyDataset(table_of([films[k % len(films)] for k in range(96)]), root)
    return rate(
        data,
        train_tokenizer(['The heart is normal. The lungs are clear.'] * 2, 100),
        workers,
    )


def own_films(root, limit, repeats):
    "The two pipelines on JPEG films of a folder."
    films = sorted(
        str(p.relative_to(root))
        for p in root.rglob('*')
        if p.suffix.lower() in ('.jpg', '.jpeg')
    )[:limit]
    read = open_films(root)
    ms = best_times(
        dict(usual=lambda f, k: usual(root / f, k), ours=lambda f, k: ours(read, f, k)),
        films,
        repeats,
    )
    apart = np.concatenate([differences(read, f, 4) for f in films])
    return dict(
        films=len(films),
        **ms,
        times_faster=ms['usual'] / ms['ours'],
        grey_levels=float(apart[:, 0].mean()),
        rounded=float(apart[:, 1].mean()),
    )


def show(title, frame):
    print(
        f'\n{title}\n{frame.to_string(float_format=lambda v: f"{v:.2f}", na_rep="-")}'
    )


def report(result):
    show('two training views of one file', pd.DataFrame(result['table']).T)
    show('all variants, ms a film', pd.Series(result['ms']).to_frame('ms'))
    show('stages, ms a film', pd.DataFrame(result['stages']).T.fillna(0))
    show(
        'scaled against full decoding, grey levels',
        pd.DataFrame(result['grey_levels']).T,
    )
    show('studies a second, by workers', pd.DataFrame(result['studies_a_second']).T)
    print(
        '\nbytes a film',
        {k: f'{v / 1e3:.0f} KB' for k, v in result['bytes_a_film'].items()},
        '| bytes a view:',
        result['bytes_a_view'],
    )


def main(argv=None):
    # more workers than the cores this process is bound to: asked for
    warnings.filterwarnings('ignore', 'This DataLoader will create')
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--films', type=int, default=6, help='phantoms drawn')
    p.add_argument('--repeats', type=int, default=7)
    p.add_argument('--workers', type=int, nargs='*', default=[0, 1, 2])
    p.add_argument('--root', type=Path, help='folder of JPEG films of your own')
    p.add_argument('--json', type=Path, help='write the numbers here')
    a = p.parse_args(argv)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp:
        result = measure_all(Path(tmp), a.films, a.repeats, a.workers)
    report(result)
    if a.root:
        result['own'] = own_films(a.root, 8 * a.films, a.repeats)
        show('films of your own', pd.Series(result['own']).to_frame(''))
    if a.json:
        a.json.write_text(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
