"""Grids of a few steps on 200 embedded images, evaluated on few."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

RECIPES = Path(__file__).parents[2] / "recipes"
IMAGES = RECIPES / "data" / "fashion_mnist"
# Of each class, in the folder of few.
OF_EACH = {"train": 40, "validation": 6, "test": 6}
OPTIONS = {
    "max_train_samples": 200,
    "validation_split": "validation",
    "max_steps": 4,
    "num_loops": 2,
    "selection_budget": 40,
    "rescore": "full",
    "total_train_batch_size": 8,
    "use_cpu": True,
}


@cache
def few_images() -> Path:
    """A folder like that of the embedded images, with few of each class in each split: a grid evaluates on them all
    again and again."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for split, count in OF_EACH.items():
        images = Dataset.from_parquet(str(IMAGES / f"{split}.parquet"), cache_dir=str(folder / "cache"))
        found: dict[int, int] = {}
        rows = []
        for row, label in enumerate(images["label"]):
            found[label] = found.get(label, 0) + 1
            if found[label] <= count:
                rows.append(row)
        (folder / "images").mkdir(exist_ok=True)
        images.select(rows).to_parquet(folder / "images" / f"{split}.parquet")
    return folder / "images"


def tiny(folder: Path, options: dict[str, Any], **values: Any) -> dict[str, Any]:
    """compare_fashion_mnist.yaml with four steps a run, one rate and seed, other options and other values."""
    shipped = yaml.safe_load((RECIPES / "configs" / "compare_fashion_mnist.yaml").read_text())
    made = {"folder": str(folder), "report": str(folder), "options": shipped["options"] | OPTIONS}
    made["options"] |= {"dataset_name": str(few_images()), **options}
    return shipped | made | {"learning_rates": [1e-3], "seeds": [0]} | values
