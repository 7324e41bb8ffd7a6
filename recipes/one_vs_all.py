"""A fine-grained objective: one class against all others, by methods, classes and seeds (the paper's Table 2).

    python recipes/paper/run.py table2

A grid as `compare.py` has them, whose pools say their `target_class`, its position among the dataset's classes. The
loss of a sample is the binary cross entropy of the target's logit: it is what the run trains on, and what its selection
goes by. Where a tenth of the samples are of the target, a model that never says so is right nine times in ten. Beside
the accuracy stand the mean of both sides' accuracies and the average precision, which do not forgive that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from comparison import Results, all_methods, markdown, methods_of, pools_of, with_error
from grid import Cell, Grid
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from torch import Tensor
from torch.nn import functional
from transformers import EvalPrediction

from vecaf_hf.scoring.losses import logits_of

# As a table's reader knows them.
MEASURES = {
    "accuracy": "accuracy, %",
    "balanced_accuracy": "balanced accuracy, %",
    "average_precision": "average precision, %",
}


def one_vs_all_losses(outputs: Any, labels: Tensor, target: int) -> Tensor:
    """Binary cross entropy of each sample, by the target's logit alone. [N]."""
    return functional.binary_cross_entropy_with_logits(
        logits_of(outputs)[:, target].float(), (labels == target).float(), reduction="none"
    )


def one_vs_all_metrics(prediction: EvalPrediction, target: int) -> dict[str, float]:
    """The MEASURES of a split."""
    logits, is_target = np.asarray(prediction.predictions)[:, target], prediction.label_ids == target
    return {
        "accuracy": float(np.mean((logits > 0) == is_target)),
        "balanced_accuracy": float(balanced_accuracy_score(is_target, logits > 0)),
        "average_precision": float(average_precision_score(is_target, logits)),
    }


@dataclass(frozen=True)
class OneVsAllGrid(Grid):
    """A grid whose pools have a `target_class` each."""

    OWN: ClassVar[frozenset[str]] = frozenset({"target_class"})
    MEASURES: ClassVar[tuple[str, ...]] = tuple(MEASURES)

    def __post_init__(self) -> None:
        if not self.tests:
            raise ValueError("test_split is 'none', and the table is of the test split: name one")

    def trainer_options(self, cell: Cell) -> dict[str, Any]:
        """The objective and its measures."""
        target = self.settings(cell).get("target_class")
        if not isinstance(target, int):
            raise ValueError(f"target_class of pool {cell.pool!r} is {target!r}; it must be the position of a class")
        return {
            "sample_loss_func": partial(one_vs_all_losses, target=target),
            "compute_metrics": partial(one_vs_all_metrics, target=target),
        }


def table(results: Results) -> str:
    """One row a method and measure, one column a target class; mean and standard error over seeds, of the test."""
    pools, methods = pools_of(results), all_methods(results)
    rows: list[Sequence[str]] = [["measure", "method", *(f"`{pool}`" for pool in pools), "mean"]]
    for measure, title in MEASURES.items():
        for method in methods:
            found = [_of_seeds(methods_of(results, pool).get(method), measure) for pool in pools]
            mean = [float(np.mean(seeds)) for seeds in zip(*found, strict=True)] if all(found) else []
            rows.append([title, f"`{method}`", *(with_error(one) if one else "" for one in (*found, mean))])
    return markdown(rows)


def _of_seeds(entry: Any, measure: str) -> list[float]:
    return [] if entry is None else [100 * run["measures"][measure] for run in entry["runs"]]


def write_table(results: Results, folder: Path) -> str:
    """Write the table into the folder; returns it."""
    text = f"{table(results)}\n"
    (folder / "tables.md").write_text(text)
    return text
