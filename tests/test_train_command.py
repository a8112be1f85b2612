"""What a notebook cannot show of the command `cxrclip-train`.

It runs as another process, is killed without warning, and is fed with faulty input.
"""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

ENV = dict(
    os.environ,
    OMP_NUM_THREADS='1',
    HF_HUB_OFFLINE='1',
    CUDA_VISIBLE_DEVICES='',
    TQDM_DISABLE='1',
)
PROGRAMS = Path(__file__).parent / 'programs'
SMALL = (
    '--image_encoder test_resnet --image_size 64 --embed_dim 64 --vocab_size 600 '
    '--batch_size 16'
).split()


def command(*options):
    return [
        sys.executable,
        '-m',
        'cxrclip_nb.training.loop',
        *SMALL,
        *map(str, options),
    ]


def run(*options, **kw):
    return subprocess.run(
        command(*options), env=ENV, capture_output=True, text=True, timeout=300, **kw
    )


@pytest.fixture(scope='module')
def phantoms(tmp_path_factory):
    from cxrclip_nb.data.phantoms import make_phantoms

    root = tmp_path_factory.mktemp('phantoms')
    make_phantoms(root, n_studies=180, size=128, seed=3)
    return ['--studies', root / 'studies.parquet']


@pytest.fixture(scope='module')
def whole(phantoms, tmp_path_factory):
    options, folder = (
        [*phantoms, '--max_steps', 14, '--save_every', 2, '--num_workers', 1],
        tmp_path_factory.mktemp('runs') / 'whole',
    )
    assert (r := run(*options, '--output_dir', folder)).returncode == 0, r.stderr
    return options, folder


def test_killed_at_a_random_moment_it_resumes_to_the_same_end(whole, tmp_path):
    from cxrclip_nb.testing.runs import differences, interrupt

    options, folder = whole
    killed = tmp_path / 'killed'
    # shorter, should it have ended before
    for delay in (random.uniform(0, 2), random.uniform(0, 0.5), 0):
        code, said = interrupt(
            command(*options, '--output_dir', killed), killed, delay, env=ENV
        )
        if code == -signal.SIGKILL and not (killed / 'metrics.json').exists():
            break
    assert code == -signal.SIGKILL, said
    reached = torch.load(killed / 'last.pt', weights_only=True)['step']
    assert reached % 2 == 0
    assert (r := run(*options, '--output_dir', killed, '--resume')).returncode == 0, (
        r.stderr
    )
    assert (
        f'resumed at step {reached} of 14' in r.stdout
        and differences(folder, killed) == []
    )


def test_sigterm_ends_it_kindly(phantoms, tmp_path):
    from cxrclip_nb.testing.runs import interrupt

    code, said = interrupt(
        command(
            *phantoms,
            '--max_steps',
            100_000,
            '--save_every',
            90_000,
            '--num_workers',
            1,
            '--output_dir',
            tmp_path / 'run',
        ),
        tmp_path / 'run',
        15,
        signal.SIGTERM,
        env=ENV,
    )
    text = '\n'.join(said)
    assert code == 143 and 'Traceback' not in text and 'go on with resume' in text, text
    step = int(re.search(r'after step (\d+) of', text)[1])
    assert torch.load(tmp_path / 'run' / 'last.pt', weights_only=True)['step'] == step
    # 0: it was still measuring the untrained model
    assert step == 0 or len(pd.read_csv(tmp_path / 'run' / 'history.csv')) == step


def test_two_processes_train_and_validate_as_one(phantoms, tmp_path):
    """Without what is drawn by process, and without batch norm, two halves of a batch
    are the batch: loss, gradient, numbers of equal texts, validation.
    """
    out = {n: tmp_path / n for n in ('one', 'two')}
    options = [
        PROGRAMS / 'without_draws.py',
        *SMALL,
        *phantoms,
        '--max_steps',
        3,
        '--image_encoder',
        'test_vit',
        '--targets',
        'same_text',
        '--output_dir',
    ]
    launch = {
        'one': [sys.executable],
        'two': [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node=2',
        ],
    }
    for n in out:
        r = subprocess.run(
            [*launch[n], *map(str, options), str(out[n])],
            env=ENV,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert r.returncode == 0, r.stderr[-3000:]
    one, two = (pd.read_csv(f / 'history.csv') for f in out.values())
    for c in ('total', 'mvs', 'icl', 'tcl', 'scale', 'grad_norm'):
        np.testing.assert_allclose(one[c], two[c], rtol=2e-3, err_msg=c)
    np.testing.assert_allclose(one.total[0], two.total[0], rtol=1e-5)
    assert one.scale.nunique() == len(one) == 3, 'the weights have moved'
    # up to rounding: one process has other threads than two
    alone = same_validation(out['two'], phantoms)
    np.testing.assert_allclose(alone, two.valid.iloc[-1], rtol=1e-6)


def same_validation(folder, phantoms):
    "The validation loss of a checkpoint, computed by one process."
    from accelerate import Accelerator

    from cxrclip_nb.data.batches import StudyDataset, make_loader
    from cxrclip_nb.model.clip import CXRCLIP
    from cxrclip_nb.training.config import ObjectiveOptions
    from cxrclip_nb.training.step import validate

    studies, model = (
        pd.read_parquet(phantoms[1]),
        CXRCLIP.from_pretrained(folder / 'model'),
    )
    assert 16 < (studies.split == 'valid').sum() <= 32, (
        'two batches, one for each process'
    )
    data = StudyDataset(
        studies[studies.split == 'valid'],
        phantoms[1].parent,
        image_size=64,
        train=False,
    )
    batches = make_loader(data, model.tokenizer, 16)
    objective = ObjectiveOptions(targets='same_text')
    return validate(model, batches, objective, Accelerator(cpu=True))


def csv_of(folder, **columns):
    folder.mkdir(exist_ok=True)
    (folder / 'films').mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = (
        dict(
            patient_id=[f'p{i}' for i in range(24)],
            image=[f'films/{i}.png' for i in range(24)],
            view=['PA', 'AP', ''] * 8,
            text=[f'Patient {i} has a finding of kind {i}.' for i in range(24)],
        )
        | columns
    )
    for i in range(24):
        cv2.imwrite(
            str(folder / 'films' / f'{i}.png'), rng.integers(0, 255, (80, 70), np.uint8)
        )
    pd.DataFrame(rows).to_csv(folder / 'films.csv', index=False)
    return folder / 'films.csv'


def test_own_csv_trains(tmp_path):
    r = run(
        '--studies',
        csv_of(tmp_path / 'd'),
        '--max_steps',
        2,
        '--batch_size',
        8,
        '--output_dir',
        tmp_path / 'out',
    )
    assert r.returncode == 0, r.stderr
    assert {'metrics.json', 'history.csv', 'curves.png', 'model', 'last.pt'} <= {
        p.name for p in (tmp_path / 'out').iterdir()
    }


def refused(*options):
    """What the command says as its last word, in this process; anything but a sentence,
    e.g. another error, fails.
    """
    from cxrclip_nb.training.loop import main

    with pytest.raises(SystemExit) as e:
        main([*SMALL, *map(str, options)])
    assert str(e.value.code).startswith('cxrclip-train: '), e.value.code
    return str(e.value.code)


def broken(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    'case, columns, damage, words',
    [
        ('wrong column', dict(image=None, bild=['x'] * 24), None, 'image'),
        ('missing film', {}, lambda d: (d / 'films' / '7.png').unlink(), '7.png'),
        (
            'broken film',
            {},
            lambda d: [broken(d / 'films' / f'{i}.png') for i in range(24)],
            '.png',
        ),
        ('no patient', dict(patient_id=['p1'] + [None] * 23), None, 'patient'),
        (
            'one study that says nothing',
            dict(text=[''] * 24, labels=['Edema'] * 23 + [None]),
            None,
            'neither a text nor a label',
        ),
        (
            'a label value that is no label',
            dict(Edema=['1'] * 23 + ['maybe']),
            None,
            "'Edema' holds 'maybe'",
        ),
        (
            'an unknown label',
            dict(text=[''] * 24, labels=['Edema'] * 23 + ['Oedemma']),
            None,
            "unknown label 'Oedemma'",
        ),
    ],
)
def test_faulty_input_ends_in_one_sentence(tmp_path, case, columns, damage, words):
    keep = {k: v for k, v in columns.items() if v is not None}
    path = csv_of(tmp_path / 'd', **keep)
    if None in columns.values():
        pd.read_csv(path).drop(
            columns=[k for k, v in columns.items() if v is None]
        ).to_csv(path, index=False)
    if damage:
        damage(tmp_path / 'd')
    said = refused(
        '--studies',
        path,
        '--max_steps',
        2,
        '--batch_size',
        8,
        '--output_dir',
        tmp_path / 'out',
    )
    assert words in said, f'{case}: {said[-800:]}'


@pytest.mark.parametrize(
    'column, value, words',
    [
        ('positive', [float('nan')], 'positive: holds None (NoneType)'),
        ('texts', ['  '], 'texts: holds an empty text'),
        ('texts', 'one string', 'texts: must be a list'),
    ],
)
def test_faulty_table_ends_in_one_sentence(phantoms, tmp_path, column, value, words):
    source = phantoms[1].parent
    table = pd.read_parquet(phantoms[1])
    table[column] = table[column].map(list)
    if isinstance(value, str):
        table[column] = value
    else:
        table.at[5, column] = value
    table.to_parquet(tmp_path / 'table.parquet')
    assert words in refused(
        '--studies',
        tmp_path / 'table.parquet',
        '--root',
        source,
        '--max_steps',
        2,
        '--output_dir',
        tmp_path / 'out',
    )


@pytest.mark.parametrize(
    'options, words',
    [
        (['--batch_size', 200], 'training studies do not fill a batch of 200'),
        (['--batch_size', 1], 'batch_size must be at least 2'),
        (['--vocab_size', 20], 'vocab_size 20 is too small'),
        (['--max_length', 12], 'max_length must be a multiple of 8'),
        (['--mix', 'nih=1'], 'nih'),
        (['--image_encoder', 'resnet17'], 'resnet17'),
        (['--keep', 'first'], 'first'),
    ],
)
def test_options_that_cannot_work_end_in_one_sentence(
    phantoms, tmp_path, options, words
):
    output = ['--max_steps', 2, '--output_dir', tmp_path / 'out']
    assert words in refused(*phantoms, *output, *options)
    assert not (tmp_path / 'out').exists()


def test_unwritable_folder_is_found_before_the_first_step(phantoms, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with patch(
        'cxrclip_nb.training.loop.train_step',
        side_effect=AssertionError('a step was taken'),
    ):
        assert 'Not a directory' in refused(
            *phantoms, '--max_steps', 2, '--output_dir', tmp_path / 'file' / 'out'
        )
