#!/usr/bin/env python
"""The model of data/phantom_model, from a run on phantoms.

    cxrclip-train --output_dir runs/phantom_model
    python tools/phantom_model.py runs/phantom_model data/phantom_model

Copies what a model needs, and writes beside it how it was made.
"""

import json
import shutil
import sys
from pathlib import Path

from cxrclip_nb.data.phantoms import VERSION
from cxrclip_nb.model.hub import PICTURE

FILES = ('config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json')
COMMAND = 'cxrclip-train --output_dir runs/phantom_model'


def main(run, target):
    metrics = json.loads((run / 'metrics.json').read_text())
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(run / 'model' / name, target / name)  # not its permissions
    if (run / 'model' / PICTURE).is_file():  # of the card
        shutil.copyfile(run / 'model' / PICTURE, target / PICTURE)
    card = (run / 'model' / 'README.md').read_text()
    # 'model' is the folder's name in the run
    card = card.replace('# model\n', '# phantom_model\n')
    card = card.replace('- name: model\n', '- name: phantom_model\n')
    card = card.replace("('model')", "('data/phantom_model')")
    (target / 'README.md').write_text(card)
    made_with = dict(
        command=COMMAND,
        phantoms_version=VERSION,
        steps=metrics['steps'],
        test_auroc=round(metrics['zeroshot_auroc'], 3),
    )
    (target / 'made_with.json').write_text(json.dumps(made_with, indent=2) + '\n')


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]))
