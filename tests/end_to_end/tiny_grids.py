"""Grids of a few steps on 200 embedded images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parents[2] / "recipes"
OPTIONS = {
    "dataset_name": str(RECIPES / "data" / "fashion_mnist"),
    "max_train_samples": 200,
    "validation_split": "validation",
    "max_steps": 4,
    "num_loops": 2,
    "selection_budget": 40,
    "rescore": "full",
    "total_train_batch_size": 8,
    "use_cpu": True,
}


def tiny(folder: Path, options: dict[str, Any], **values: Any) -> dict[str, Any]:
    """compare_fashion_mnist.yaml with four steps a run, one rate and seed, other options and other values."""
    shipped = yaml.safe_load((RECIPES / "configs" / "compare_fashion_mnist.yaml").read_text())
    made = {"folder": str(folder), "report": str(folder), "options": shipped["options"] | OPTIONS | options}
    return shipped | made | {"learning_rates": [1e-3], "seeds": [0]} | values
