#!/usr/bin/env python
"""Training on two machines, tried on one: `python tools/two_machines.py [--out F]`.

Two network namespaces stand for two machines (root, and `ip` of iproute2): each has
its own address and its own folder on its own path, and sees nothing of the other's.
`torchrun --nnodes=2` starts a process on each. What must hold:

1. they end, with the weights of two processes on one machine, bit for bit;
2. stopped on both by a signal to one, and resumed, they end with the same weights.

Prints what each machine said; exit 1 if anything differs. Takes two minutes.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

NAMES = ('machine0', 'machine1')
ADDRESSES = ('10.77.0.1', '10.77.0.2')
PORT = 29511
OPTIONS = dict(
    n_phantoms=120,
    image_encoder='test_resnet',
    image_size=64,
    embed_dim=64,
    vocab_size=600,
    batch_size=16,
    max_steps=40,
    save_every=4,
)


def ip(*words, check=True):
    subprocess.run(['ip', *words], check=check, capture_output=not check)


def remove_machines():
    for name in NAMES:
        ip('netns', 'del', name, check=False)


def make_machines():
    "Two namespaces, joined by a cable."
    remove_machines()
    for name in NAMES:
        ip('netns', 'add', name)
    ends = [f'veth{i}' for i in (0, 1)]
    ip('link', 'add', ends[0], 'type', 'veth', 'peer', 'name', ends[1])
    for name, end, address in zip(NAMES, ends, ADDRESSES):
        ip('link', 'set', end, 'netns', name)
        ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', end)
        ip('-n', name, 'link', 'set', end, 'up')
        ip('-n', name, 'link', 'set', 'lo', 'up')


def loop(folder, **more):
    "The training, with all that it reads and writes in one folder."
    options = OPTIONS | dict(root=folder / 'data', output_dir=folder / 'run') | more
    words = ['-m', 'cxrclip_nb.training.loop']
    for name, value in options.items():
        words += [f'--{name}', str(value)]
    return words


def environment(**more):
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    common = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONPATH=path)
    return os.environ | common | more


def one_machine(folder):
    "Two processes that share a disk: the weights to reach."
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command = [*torchrun, '--nproc_per_node=2', *loop(folder)]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    return load_file(folder / 'run' / 'model' / 'model.safetensors')


def start_machine(number, folders, **more):
    "The process of a machine; an empty disk stands where the other's folder is."
    # a cluster user sets the last two, so that the ranks talk over the right network
    env = environment(
        GLOO_SOCKET_IFNAME=f'veth{number}', NCCL_SOCKET_IFNAME=f'veth{number}'
    )
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--nnodes=2']
    torchrun += ['--nproc_per_node=1', '--rdzv_backend=c10d', '--rdzv_id=two']
    torchrun += [f'--rdzv_endpoint={ADDRESSES[0]}:{PORT}']
    torchrun += [f'--local_addr={ADDRESSES[number]}']
    # real machines find out by their names who the host is; ours share one name
    torchrun += [f'--rdzv_conf=is_host={number == 0}']
    hide = f'mount -t tmpfs none {folders[1 - number]} && exec "$@"'
    command = ['ip', 'netns', 'exec', NAMES[number], 'unshare', '-m', 'sh', '-c', hide]
    log = (folders[number] / 'log.txt').open('a')
    return subprocess.Popen(
        [*command, 'sh', *torchrun, *loop(folders[number], **more)],
        env=env,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def say_logs(folders):
    for folder in folders:
        print(f'--- {folder.name}', (folder / 'log.txt').read_text()[-3000:], sep='\n')


def wait(machines, folders, allowed=(0,)):
    codes = [machine.wait(timeout=300) for machine in machines]
    if not set(codes) <= set(allowed):
        say_logs(folders)
        sys.exit(f'the machines ended with {codes}')


def two_machines(folders, **more):
    for folder in folders:
        folder.mkdir(exist_ok=True)
    return [start_machine(number, folders, **more) for number in (0, 1)]


def trained_part_of(process):
    "Number of the process that trains, below a machine's torchrun."
    listed = subprocess.run(
        ['ps', '-e', '-o', 'pid,ppid,args'], capture_output=True, text=True, check=True
    ).stdout.splitlines()[1:]
    rows = [line.split(None, 2) for line in listed]
    below = {process.pid}
    for _ in range(6):  # generations
        below |= {int(pid) for pid, parent, _ in rows if int(parent) in below}
    found = [int(p) for p, _, args in rows if int(p) in below and 'loop.py' in args]
    found += [int(p) for p, _, args in rows if int(p) in below and '-u -m' in args]
    return found[0] if found else None


def stop_after(machines, folders):
    "SIGTERM to the second machine's training after some steps."
    history = folders[0] / 'run' / 'history.csv'
    deadline = time.monotonic() + 200
    while not history.exists() or len(history.read_text().splitlines()) < 6:
        if time.monotonic() > deadline or machines[0].poll() is not None:
            say_logs(folders)
            sys.exit('no step was taken')
        time.sleep(0.05)
    os.kill(trained_part_of(machines[1]), signal.SIGTERM)


def stop_and_resume(folders):
    machines = two_machines(folders)
    stop_after(machines, folders)
    wait(machines, folders, allowed=range(-15, 256))
    if (folders[0] / 'run' / 'metrics.json').exists():
        sys.exit('the run was over before it could be stopped')
    wait(two_machines(folders, resume=True), folders)


def compare(name, weights, folder):
    found = load_file(folder / 'run' / 'model' / 'model.safetensors')
    off = [key for key in weights if not torch.equal(weights[key], found[key])]
    print(
        f'{name}: {len(weights) - len(off)} of {len(weights)} tensors equal bit for bit'
    )
    return not off


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, help='folder that is kept; none: a new one')
    args = parser.parse_args()
    if os.geteuid() or not shutil.which('ip'):
        parser.error('needs root, and `ip` (Debian: iproute2)')
    out = (args.out or Path(tempfile.mkdtemp())).resolve()
    out.mkdir(parents=True, exist_ok=True)
    weights = one_machine(out / 'one')
    whole = [out / f'whole{i}' for i in (0, 1)]
    cut = [out / f'cut{i}' for i in (0, 1)]
    make_machines()
    try:
        wait(two_machines(whole), whole)
        stop_and_resume(cut)
    finally:
        remove_machines()
    say_logs(whole + cut)
    ok = compare('two machines', weights, whole[0])
    ok &= compare('stopped and resumed', weights, cut[0])
    sys.exit(not ok)


if __name__ == '__main__':
    main()
