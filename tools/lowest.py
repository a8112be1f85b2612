#!/usr/bin/env python
"""Are the lower bounds of settings.ini true? `make lowest`, or

    python tools/lowest.py [--python python3.10] [--folder F] [--only-install]

Makes an environment with the oldest Python of settings.ini and the lowest versions it
allows of what the package and its extra `dev` ask for by name, and runs all notebooks
and tests there. Takes 9 GB of disk; a folder that is named is kept, and used again.
Exit 1 if anything fails, or if the versions named in settings.ini cannot be had.
"""

import argparse
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def settings():
    "The section of settings.ini."
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    return ini['DEFAULT']


def lower_bounds(cfg):
    "Name -> lowest version, of what users and `dev` install by name."
    wanted = cfg['requirements'].split() + cfg['dev_requirements'].split()
    parts = [re.fullmatch(r'([\w.-]+)>=([\d.]+)(,.*)?', w) for w in wanted]
    missing = [w for w, found in zip(wanted, parts) if not found]
    if missing:
        sys.exit(f'settings.ini names no lower bound: {" ".join(missing)}')
    return {found[1].lower().replace('_', '-'): found[2] for found in parts}


def run(*command, **options):
    "Run a program in the root; its errors end this one."
    print('+', *command, flush=True)
    return subprocess.run([str(c) for c in command], cwd=ROOT, check=True, **options)


def install(python, bounds, folder):
    "The package and `dev` in their lowest versions, by uv or by pip with constraints."
    pip = [python, '-m', 'pip', 'install', '-q']
    if subprocess.run([*pip, 'uv'], cwd=ROOT).returncode == 0:
        uv = [python, '-m', 'uv', 'pip', 'install', '-q', '--python', python]
        run(*uv, '--upgrade', '--resolution', 'lowest-direct', '-e', '.[dev]')
        return
    pins = folder / 'constraints.txt'
    lines = [f'{name}=={lowest}.*\n' for name, lowest in bounds.items()]
    pins.write_text(''.join(lines), encoding='utf-8')
    run(*pip, '-e', '.[dev]', '-c', pins)


def installed(python):
    "Name -> version, of all that the environment holds."
    command = (python, '-m', 'pip', 'list', '--format', 'json')
    listed = json.loads(run(*command, capture_output=True, text=True).stdout)
    return {p['name'].lower().replace('_', '-'): p['version'] for p in listed}


def check_versions(found, bounds):
    "Print what is there; end if a bound stands for a version that cannot be had."
    higher = []
    for name, lowest in bounds.items():
        print(f'{name:26}{found[name]}')
        if not f'{found[name]}.'.startswith(f'{lowest}.'):
            higher.append(f'{name} {found[name]}, not {lowest}')
    if higher:
        sys.exit(f'lowest versions that can be had together: {"; ".join(higher)}')


def run_all(python):
    "Notebooks, then tests; both run whatever becomes of the other."
    bin_folder = python.parent
    # versions of the environment, whatever the caller has on the path
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    env.update(PATH=f'{bin_folder}{os.pathsep}{env["PATH"]}', MPLBACKEND='Agg')
    env.update(HF_HUB_OFFLINE='1', VIRTUAL_ENV=str(bin_folder.parent))
    notebooks = ('nbdev_test', '--n_workers', '2', '--do_print', '--timing')
    failed = []
    for command in (notebooks, ('pytest', '-q', 'tests')):
        print('+', *command, flush=True)
        done = subprocess.run(
            [bin_folder / command[0], *command[1:]], cwd=ROOT, env=env
        )
        if done.returncode:
            failed.append(command[0])
    if failed:
        sys.exit(f'failed under the lowest versions: {", ".join(failed)}')
    print('the lower bounds are true')


def main():
    cfg = settings()
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--python', default=f'python{cfg["min_python"]}')
    p.add_argument('--folder', type=Path, help='of the environment, kept')
    p.add_argument('--only-install', action='store_true', help='run nothing')
    args = p.parse_args()
    oldest = shutil.which(args.python)
    if oldest is None:
        sys.exit(f'{args.python} is not there: name one with --python')
    bounds = lower_bounds(cfg)
    with tempfile.TemporaryDirectory(prefix='lowest.') as spare:
        folder = (args.folder or Path(spare) / 'environment').absolute()
        python = folder / 'bin' / 'python'
        if not python.exists():
            run(oldest, '-m', 'venv', folder)
        install(python, bounds, folder)
        check_versions(installed(python), bounds)
        if not args.only_install:
            run_all(python)


if __name__ == '__main__':
    main()
