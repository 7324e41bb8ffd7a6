"""ImageNet-1K in the paper's setting: 1 % per loop, 3 loops, 12,500 batches of 256; `configs/paper.yaml` has the rest.

    accelerate launch recipes/imagenet.py
    accelerate launch recipes/imagenet.py --config recipes/configs/quickstart.yaml

The Hub dataset asks for its terms to be accepted first (non-commercial research). Its labelled validation split is the
paper's test; 1 % of the training images are held out for evaluation during the run.
"""

from pathlib import Path

import yaml
from finetune import main

PAPER = yaml.safe_load((Path(__file__).parent / "configs" / "paper.yaml").read_text())

IMAGENET = PAPER | {
    "dataset_name": "ILSVRC/imagenet-1k",
    "test_split": "validation",
    "validation_fraction": 0.01,
    "selection_fraction": 0.01,
    "max_steps": 12_500,
    "output_dir": "runs/imagenet",
}

if __name__ == "__main__":
    main(IMAGENET, __doc__ or "")
