"""What the first cell of a chapter runs on Colab, after it has cloned the project:
`%run colab.py 3_losses` installs the clone with what the chapters import, and goes to
the chapter's folder. Nowhere else is it called.
"""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Colab is a reader of notebooks of its own: another one would break it
READERS = {'jupyterlab', 'ipykernel', 'ipywidgets', 'nbconvert', 'nbclient', 'pytest'}


def wanted():
    "What the extra `dev` names, without programs to read notebooks with."
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    named = ini['DEFAULT']['dev_requirements'].split()
    return [w for w in named if re.match(r'[\w.-]+', w)[0] not in READERS]


def main(folder):
    print('Colab: installing cxrclip_nb, a minute or two')
    pip = [sys.executable, '-m', 'pip', 'install', '-q']
    subprocess.run([*pip, '-e', str(ROOT), *wanted()], check=True)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # a running Python does not see a new install
    os.chdir(ROOT / 'nbs' / folder)


if __name__ == '__main__':
    main(sys.argv[1])
