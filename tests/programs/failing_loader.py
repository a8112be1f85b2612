"""A loop over a loader that fails, with nothing that catches the error:
`python failing_loader.py FOLDER kill|collate|film`.
"""

import os
import signal
import sys

from cxrclip_nb.data.batches import StudyDataset, make_loader, train_tokenizer
from cxrclip_nb.data.studies import load_studies


def make(root, failure):
    "The loader, spoilt in one way."
    name = 'broken' if failure == 'film' else 'studies'
    data = StudyDataset(load_studies(f'{root}/{name}.parquet'), root, image_size=112)
    loader = make_loader(data, train_tokenizer(['a b']), 4, num_workers=2)
    if failure == 'collate':
        loader.collate_fn = lambda items: 1 / 0
    return loader


if __name__ == '__main__':
    root, failure = sys.argv[1:]
    loader = make(root, failure)
    for k, batch in enumerate(loader):
        if failure == 'kill' and k == 1:
            os.kill(loader._iterator._workers[1].pid, signal.SIGKILL)
