"""CIFAR-10 in the paper's setting: 1 % per loop, 3 loops, 750 batches of 256 (Section 4.1).

accelerate launch recipes/cifar10.py
"""

from finetune import main
from imagenet import PAPER

CIFAR10 = PAPER | {
    "dataset_name": "uoft-cs/cifar10",
    "image_column": "img",
    "label_column": "label",
    "selection_fraction": 0.01,
    "max_steps": 750,
    "output_dir": "runs/cifar10",
}

if __name__ == "__main__":
    main(CIFAR10, __doc__ or "")
