"""What a notebook cannot show: the command as another process, killed without warning, and fed with faulty input."""
import json, os, signal, subprocess, sys, time
from pathlib import Path
import cv2, numpy as np, pandas as pd, pytest, torch

ENV = dict(os.environ, OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', CUDA_VISIBLE_DEVICES='', TQDM_DISABLE='1')
SMALL = ['--image_encoder', 'test_resnet', '--image_size', '64', '--embed_dim', '64', '--vocab_size', '600', '--batch_size', '16']

def command(*options): return [sys.executable, '-m', 'cxrclip_nb.train', *SMALL, *map(str, options)]

def run(*options, **kw): return subprocess.run(command(*options), env=ENV, capture_output=True, text=True, timeout=300, **kw)

@pytest.fixture(scope='module')
def phantoms(tmp_path_factory):
    from cxrclip_nb.phantoms import make_phantoms
    root = tmp_path_factory.mktemp('phantoms'); make_phantoms(root, n_studies=60, size=128, seed=3)
    return ['--studies', root/'studies.parquet']

def weights(folder):
    from safetensors.torch import load_file
    return load_file(folder/'model'/'model.safetensors')

def test_killed_run_resumes_to_the_same_weights(phantoms, tmp_path):
    options = [*phantoms, '--max_steps', 14, '--save_every', 2, '--num_workers', 1]
    assert (r := run(*options, '--output_dir', tmp_path/'whole')).returncode == 0, r.stderr
    killed = tmp_path/'killed'
    p = subprocess.Popen(command(*options, '--output_dir', killed), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while time.time() < deadline and p.poll() is None:
        if (killed/'last.pt').exists() and torch.load(killed/'last.pt', weights_only=True)['step'] >= 4: break
        time.sleep(.05)
    p.send_signal(signal.SIGKILL); p.wait()
    assert not (killed/'metrics.json').exists(), 'the run ended before it could be killed'
    assert (r := run(*options, '--output_dir', killed, '--resume')).returncode == 0, r.stderr
    assert 'resumed at step' in r.stdout
    a, b = weights(tmp_path/'whole'), weights(killed)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def test_two_processes_train_the_same_batch(phantoms, tmp_path):
    options = [*SMALL, *map(str, phantoms), '--max_steps', '2', '--image_encoder', 'test_vit']                # without batch norm
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', '-m', 'cxrclip_nb.train', *options, '--output_dir', str(tmp_path/'two')]
    r = subprocess.run(cmd, env=dict(ENV, ACCELERATE_USE_CPU='true'), capture_output=True, text=True, timeout=400)
    assert r.returncode == 0, r.stderr[-3000:]
    assert (one := run(*options, '--output_dir', tmp_path/'one')).returncode == 0, one.stderr
    first = {n: pd.read_csv(tmp_path/n/'history.csv').total[0] for n in ('one', 'two')}
    assert json.loads((tmp_path/'two'/'metrics.json').read_text())['steps'] == 2
    assert abs(first['one'] - first['two']) < .6, first    # dropout and jitter differ by rank; eight negatives fewer would cost 2.5 log 2 = 1.7

def csv_of(folder, **columns):
    folder.mkdir(exist_ok=True); (folder/'films').mkdir(exist_ok=True); rng = np.random.default_rng(0)
    rows = dict(patient_id=[f'p{i}' for i in range(24)], image=[f'films/{i}.png' for i in range(24)], view=['PA', 'AP', '']*8,
                text=[f'Patient {i} has a finding of kind {i}.' for i in range(24)]) | columns
    for i in range(24): cv2.imwrite(str(folder/'films'/f'{i}.png'), rng.integers(0, 255, (80, 70), np.uint8))
    pd.DataFrame(rows).to_csv(folder/'films.csv', index=False)
    return folder/'films.csv'

def test_own_csv_trains(tmp_path):
    r = run('--studies', csv_of(tmp_path/'d'), '--max_steps', 2, '--batch_size', 8, '--output_dir', tmp_path/'out')
    assert r.returncode == 0, r.stderr
    assert {'metrics.json', 'history.csv', 'curves.png', 'model', 'last.pt'} <= {p.name for p in (tmp_path/'out').iterdir()}

def broken(path): path.write_bytes(path.read_bytes()[:60])

@pytest.mark.parametrize('case, columns, damage, words', [
    ('wrong column', dict(image=None, bild=['x']*24), None, 'image'),
    ('missing film', {}, lambda d: (d/'films'/'7.png').unlink(), '7.png'),
    ('broken film', {}, lambda d: [broken(d/'films'/f'{i}.png') for i in range(24)], '.png'),
    ('no patient', dict(patient_id=['p1'] + [None]*23), None, 'patient'),
    ('one study that says nothing', dict(text=['']*24, labels=['Edema']*23 + [None]), None, 'neither a text nor a label'),
    ('a label value that is no label', dict(Edema=['1']*23 + ['maybe']), None, "'Edema' holds 'maybe'"),
    ('an unknown label', dict(text=['']*24, labels=['Edema']*23 + ['Oedemma']), None, "unknown label 'Oedemma'"),
])
def test_faulty_input_ends_in_one_sentence(tmp_path, case, columns, damage, words):
    keep = {k: v for k, v in columns.items() if v is not None}
    path = csv_of(tmp_path/'d', **keep)
    if None in columns.values(): pd.read_csv(path).drop(columns=[k for k, v in columns.items() if v is None]).to_csv(path, index=False)
    if damage: damage(tmp_path/'d')
    r = run('--studies', path, '--max_steps', 2, '--batch_size', 8, '--output_dir', tmp_path/'out')
    assert r.returncode != 0 and 'Traceback' not in r.stderr, f'{case}: {r.stderr[-2000:]}'
    assert words in r.stderr.splitlines()[-1] or words in r.stderr, f'{case}: {r.stderr[-800:]}'

@pytest.mark.parametrize('column, value, words', [
    ('positive', [float('nan')], 'positive: holds None (NoneType)'), ('texts', ['  '], 'texts: holds an empty text'), ('texts', 'one string', 'texts: must be a list'),
])
def test_faulty_table_ends_in_one_sentence(phantoms, tmp_path, column, value, words):
    source = phantoms[1].parent; table = pd.read_parquet(phantoms[1]); table[column] = table[column].map(list)
    if isinstance(value, str): table[column] = value
    else: table.at[5, column] = value
    table.to_parquet(tmp_path/'table.parquet')
    r = run('--studies', tmp_path/'table.parquet', '--root', source, '--max_steps', 2, '--output_dir', tmp_path/'out')
    assert r.returncode != 0 and 'Traceback' not in r.stderr and words in r.stderr, r.stderr[-2000:]

def test_unwritable_folder_is_found_before_the_first_step(phantoms, tmp_path):
    (tmp_path/'file').write_text('in the way')
    r = run(*phantoms, '--max_steps', 2, '--output_dir', tmp_path/'file'/'out')
    assert r.returncode != 0 and 'Traceback' not in r.stderr
