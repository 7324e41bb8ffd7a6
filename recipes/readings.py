"""What a run's model is judged by: its accuracy, and those under a grid's targets."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecaf_hf.data.columns import read_labels
from vecaf_hf.loop.class_shares import trained_shares

# Of a point of a curve, as a table's reader knows them; all but the first need targets.
READINGS = {
    "accuracy": "plain accuracy",
    "targets": "mean over conditions",
    "worst": "worst condition",
    "both": "mean of plain accuracy and mean over conditions",
}

Array = NDArray[np.float64]


def readings(accuracy: float, targets: Mapping[str, float] | None) -> dict[str, float]:
    """All that these accuracies tell, under the names of READINGS: without targets the first alone."""
    if not targets:
        return {"accuracy": accuracy}
    mean = fmean(targets.values())
    return {
        "accuracy": accuracy,
        "targets": mean,
        "worst": min(targets.values()),
        "both": (accuracy + mean) / 2,
    }


def class_shares(trainer: Any) -> dict[str, list[float]]:
    """Each class's part of a trained run's pool, and of what it was trained on: of its selections, by their batches and
    weights. One sample of each class more is taken as trained on, so that there is a logarithm.

    Nothing where the samples have no classes.
    """
    labels, classes = read_labels(trainer.train_dataset, trainer.args.label_column), len(trainer.class_names)
    if labels is None or not trainer.selection_history:
        return {}
    starts = [record.step for record in trainer.loop_records] + [trainer.state.global_step]
    steps, batch = np.diff(starts).tolist(), trainer.args.train_batch_size
    trained = trained_shares(trainer.selection_history, steps, labels, classes, batch)
    pool = np.bincount(labels.numpy(), minlength=classes)
    return {"pool": (pool / pool.sum()).tolist(), "trained": trained.tolist()}


def by_class_shares(
    logits: Array, labels: NDArray[np.int64], pool: list[float], trained: list[float]
) -> dict[str, dict[str, float]]:
    """The accuracy on a split whose classes have other shares, without further forward passes.

    It is the mean of the classes' accuracies by those shares, whose variance is lower than that of a part of the split
    drawn by them: all samples count. `corrected` is that of the logits plus log(shares) - log(shares trained on), the
    logit adjustment of arXiv 2007.07314. A class that the split has no sample of is left out.

    Args:
        logits: [n, C].
        labels: [n].
        pool: The classes' shares of the pool. [C].
        trained: Of what the model was trained on. [C].

    Returns:
        "balanced" (equal shares) and "pool" -> {"accuracy": ..., "corrected": ...}.
    """
    classes = len(pool)
    found = {}
    for name, shares in (("balanced", np.full(classes, 1 / classes)), ("pool", np.asarray(pool))):
        with np.errstate(divide="ignore"):
            corrected = logits + np.log(shares) - np.log(trained)
        found[name] = {
            "accuracy": _weighted_accuracy(logits, labels, shares),
            "corrected": _weighted_accuracy(corrected, labels, shares),
        }
    return found


def _weighted_accuracy(logits: Array, labels: NDArray[np.int64], shares: Array) -> float:
    right, count = (np.bincount(labels, weights, len(shares)) for weights in (logits.argmax(1) == labels, None))
    there = count > 0
    return float(np.average(right[there] / count[there], weights=shares[there]))
