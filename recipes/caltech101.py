"""Caltech101 in the paper's setting: 5 % per loop, 3 loops, 1,500 batches of 256 (Section 4.1).

The Hub's dataset is one split: a tenth is held out for evaluation during the run, a fifth for the test.

    accelerate launch recipes/caltech101.py
"""

from finetune import main
from imagenet import PAPER

CALTECH101 = PAPER | {
    "dataset_name": "flwrlabs/caltech101",
    "test_split": None,
    "validation_fraction": 0.1,
    "test_fraction": 0.2,
    "selection_fraction": 0.05,
    "max_steps": 1_500,
    "output_dir": "runs/caltech101",
}

if __name__ == "__main__":
    main(CALTECH101, __doc__ or "")
