"""The command that prepares a corpus, as another process.

It is killed without warning, given broken films, and refused what cannot be.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

ENV = dict(
    os.environ,
    OMP_NUM_THREADS='1',
    HF_HUB_OFFLINE='1',
    CUDA_VISIBLE_DEVICES='',
    TQDM_DISABLE='1',
    MPLBACKEND='Agg',
)
LEFT = {
    'films',
    'left_out.csv',
    'prepare.json',
    'report.md',
    'report.png',
    'studies.parquet',
    'source.parquet',
}


def command(*words, module='data.prepare'):
    return [sys.executable, '-m', f'cxrclip_nb.{module}', *map(str, words)]


def run(*words, **kw):
    return subprocess.run(
        command(*words, **kw), env=ENV, capture_output=True, text=True, timeout=200
    )


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    """A corpus in MIMIC's form, its truth, a film that is broken, and a study none of
    whose films can be read.
    """
    from cxrclip_nb.testing.corpora import write_like

    root = tmp_path_factory.mktemp('corpus') / 'mimic'
    truth = write_like('mimic', root, n_studies=120, size=256, seed=5)
    broken = next(fs[0] for fs in truth.images if len(fs) > 1)
    hopeless = next(
        r for r in truth.itertuples() if broken not in r.images and r.split == 'train'
    )
    for film in [broken, *hopeless.images]:
        (root / film).write_bytes((root / film).read_bytes()[:700])
    return root, truth, broken, hopeless


def stored(out):
    "Films that a cache holds, finished or not, and when each was written."
    files = (out / 'films').glob('[!.]*/**/*')
    return {p: p.stat().st_mtime_ns for p in files if p.is_file()}


def check(out, corpus):
    "All is there, nothing but the broken films is lacking."
    root, truth, broken, hopeless = corpus
    assert {p.name for p in out.iterdir()} == LEFT and json.loads(
        (out / 'prepare.json').read_text()
    )['done']
    studies, left = (
        pd.read_parquet(out / 'studies.parquet'),
        pd.read_csv(out / 'left_out.csv'),
    )
    assert set(studies.study_id) == set(truth.study_id) - {hopeless.study_id}
    assert sum(map(len, studies.images)) == sum(map(len, truth.images)) - 1 - len(
        hopeless.images
    )
    assert {broken, *hopeless.images} <= set(
        left.what[left.stage == 'film']
    ) and hopeless.study_id in set(left.what[left.stage == 'study'])
    assert (
        left.reason.str.len().min() > 5
        and f'- film: {1 + len(hopeless.images)}' in (out / 'report.md').read_text()
    )


@pytest.fixture(scope='module')
def prepared(corpus, tmp_path_factory):
    "The corpus, prepared by a run that was killed three times on its way."
    out = tmp_path_factory.mktemp('prepared') / 'out'
    words = ['mimic', corpus[0], out, '--side', 200, '--num_workers', 2]
    moments = [
        lambda: (out / 'prepare.json').exists(),
        lambda: (out / 'work' / 'left_out.csv').exists(),
        lambda: len(stored(out)) > 20,
    ]
    kills = 0
    for come in moments:
        p = subprocess.Popen(
            command(*words),
            env=ENV,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.time() + 100
        while time.time() < deadline and p.poll() is None and not come():
            time.sleep(0.002)
        kills += p.poll() is None
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
        p.wait()
    seen = stored(out)
    assert kills == 3 and not (out / 'studies.parquet').exists(), (
        'the run ended before it could be killed'
    )
    assert (r := run(*words)).returncode == 0, r.stderr
    return out, words, seen


def test_killed_run_goes_on(corpus, prepared):
    out, words, seen = prepared
    check(out, corpus)
    now = stored(out)
    assert len(seen) > 20
    assert {p: now[p] for p in seen} == seen, 'films that were there were stored anew'
    studies = pd.read_parquet(out / 'studies.parquet')
    films = {out / 'films' / film for images in studies.images for film in images}
    assert set(now) == films, 'more or less than the films of the table'
    hidden = {p.name for p in (out / 'films').glob('.*')}
    assert hidden <= {'.lock'}, 'the killed runs left something'
    assert 'side: 200 then, 100 now' in refused(*words[:3], '--side', 100)
    before = {
        p: p.stat().st_mtime_ns
        for p in out.rglob('*')
        if p.is_file() and p.name != 'prepare.json'
    }
    assert 'complete already' in run(*words).stdout and all(
        p.stat().st_mtime_ns == when for p, when in before.items()
    )


def test_what_it_leaves_trains_and_is_evaluated(prepared, tmp_path):
    small = [
        '--image_encoder',
        'test_resnet',
        '--image_size',
        64,
        '--embed_dim',
        64,
        '--vocab_size',
        600,
        '--batch_size',
        16,
        '--max_steps',
        2,
    ]
    r = run(
        '--studies',
        prepared[0] / 'studies.parquet',
        '--root',
        prepared[0] / 'films',
        *small,
        '--output_dir',
        tmp_path / 'run',
        module='training.loop',
    )
    assert r.returncode == 0, r.stderr
    assert json.loads((tmp_path / 'run' / 'metrics.json').read_text())['steps'] == 2
    r = run(
        tmp_path / 'run' / 'model',
        prepared[0] / 'studies.parquet',
        '--out',
        tmp_path / 'evaluation',
        '--n_boot',
        20,
        module='evaluation.benchmarks',
    )
    assert r.returncode == 0, r.stderr
    left = {p.suffix for p in (tmp_path / 'evaluation').iterdir()}
    assert {'.json', '.csv', '.png'} <= left and 'trained on' in r.stdout, r.stdout


def test_several_workers_read_dicom(tmp_path):
    pytest.importorskip('pydicom')
    from cxrclip_nb.testing.corpora import write_like

    truth = write_like('vindr', tmp_path / 'vindr', n_studies=20, size=128, seed=3)
    r = run(
        'vindr',
        tmp_path / 'vindr',
        tmp_path / 'out',
        '--side',
        64,
        '--read',
        'votes=1',
        '--num_workers',
        2,
    )
    assert r.returncode == 0, r.stderr
    studies = pd.read_parquet(tmp_path / 'out' / 'studies.parquet')
    assert {f for fs in studies.images for f in fs} == {
        f for fs in truth.images for f in fs
    }
    assert (
        json.loads((tmp_path / 'out' / 'prepare.json').read_text())['options']['votes']
        == 1
    )


def test_a_table_of_ones_own_with_films_missing(tmp_path):
    """Films that are not there are left out and listed, as for the other corpora; none
    is stored twice by a run that is repeated.
    """
    import cv2
    import numpy as np

    for k in range(3):
        cv2.imwrite(
            str(tmp_path / f'{k}.png'),
            np.random.default_rng(k).integers(0, 255, (90, 80), dtype=np.uint8),
        )
    table = pd.DataFrame(
        dict(
            patient_id=list('aabcd'),
            study_id=list('sstuv'),
            image=[f'{k}.png' for k in (0, 8, 1, 2, 9)],
            text='Clear lungs.',
        )
    )
    table.to_csv(tmp_path / 'mine.csv', index=False)
    words = [
        'csv',
        tmp_path / 'mine.csv',
        tmp_path / 'out',
        '--side',
        64,
        '--num_workers',
        0,
    ]
    r = run(*words)
    assert r.returncode == 0 and 'left out: 2 films, 1 study' in r.stdout, (
        r.stdout + r.stderr
    )
    left = pd.read_csv(tmp_path / 'out' / 'left_out.csv')
    assert set(left.what) == {'8.png', '9.png', 'v'} and set(
        left.reason[left.what != 'v']
    ) == {'is not on disk'}
    assert sorted(pd.read_parquet(tmp_path / 'out' / 'studies.parquet').study_id) == [
        's',
        't',
        'u',
    ]
    assert 'complete already' in run(*words).stdout
    for k in range(3):
        (tmp_path / 'out' / 'films' / f'{k}.png').unlink()
    assert 'lacks 3 films' in refused(*words)


def test_a_folder_of_version_0_1(corpus, tmp_path):
    "Its films are no longer read; the error says what to do, and nothing is lost."
    from cxrclip_nb.data.films import FilmError, open_films

    films = tmp_path / 'out' / 'films'
    films.mkdir(parents=True)
    (films / 'film_cache.bin').write_bytes(b'films')
    options = dict(corpus='mimic', root=str(corpus[0]), films='films', form='jpeg')
    card = dict(options=options, seconds=dict(read=1, films=1), done=True)
    (tmp_path / 'out' / 'prepare.json').write_text(json.dumps(card))
    assert 'take another folder' in refused('mimic', corpus[0], tmp_path / 'out')
    with pytest.raises(FilmError, match='version 0.1.*make it anew'):
        open_films(films)
    shared = ['mimic', corpus[0], tmp_path / 'new', '--films', films]
    assert 'make it anew in another folder' in refused(*shared)
    assert (films / 'film_cache.bin').read_bytes() == b'films'


def read_only(folder):
    "A folder that nobody can write to, root included."
    if os.geteuid() == 0:
        return '/proc/cxrclip'
    folder.mkdir()
    folder.chmod(0o555)
    return folder / 'out'


def damaged(folder):
    folder.mkdir()
    (folder / 'prepare.json').write_text('[]')
    return folder


def refused(*words):
    "What the command says when it refuses, called in this process."
    from cxrclip_nb.data.prepare import main

    with pytest.raises(SystemExit) as e:
        main([str(w) for w in words])
    return str(e.value.code)


def test_errors_are_one_sentence(corpus, tmp_path):
    for words, said in [
        (['mimik', corpus[0], tmp_path / 'out'], "unknown corpus 'mimik'; there are"),
        (
            [
                'mimic',
                corpus[0],
                tmp_path / 'bad',
                '--on_bad_film',
                'raise',
                '--num_workers',
                0,
            ],
            '.jpg',
        ),
    ]:
        r = run(*words)
        assert (
            r.returncode == 1
            and said in r.stderr
            and r.stderr.startswith('cxrclip-prepare: ')
            and 'Traceback' not in r.stderr
        ), r.stderr[-2000:]
        assert not (words[2] / 'studies.parquet').exists()


@pytest.mark.parametrize(
    'case, words, said',
    [
        (
            'a folder that does not exist',
            lambda c, t: ['mimic', c / 'nowhere', t / 'out'],
            'nowhere',
        ),
        (
            'the folder of another corpus',
            lambda c, t: ['nih14', c, t / 'out'],
            'Data_Entry',
        ),
        (
            'out cannot be written to',
            lambda c, t: ['mimic', c, read_only(t / 'locked')],
            'cannot write to',
        ),
        ('out is a file', lambda c, t: ['mimic', c, __file__], 'cannot write to'),
        (
            'out holds something else',
            lambda c, t: ['mimic', c, c],
            'not made by cxrclip-prepare',
        ),
        (
            'a damaged card',
            lambda c, t: ['mimic', c, damaged(t / 'bad')],
            'prepare.json is damaged',
        ),
        (
            'less than no workers',
            lambda c, t: ['mimic', c, t / 'out', '--num_workers', '-1'],
            'num_workers must be 0 or more',
        ),
        (
            'a folder that looks like a number',
            lambda c, t: ['mimic', c, t / 'out', '--read', 'reports=007'],
            'no folder 007',
        ),
        (
            'an option that the reader lacks',
            lambda c, t: ['mimic', c, t / 'out', '--read', 'votes=1'],
            "no option 'votes'",
        ),
    ],
)
def test_what_is_refused(case, words, said, corpus, tmp_path):
    error = refused(*words(corpus[0], tmp_path))
    assert (
        error.startswith('cxrclip-prepare: ')
        and said in error
        and not (tmp_path / 'out' / 'studies.parquet').exists()
    ), error
