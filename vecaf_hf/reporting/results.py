"""What a run's log says of the model that it ended with, for a card and its metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from vecaf_hf.reporting.origins import Origin

# Trainer's prefix of a split's metrics, and what the split is.
SPLITS = {"eval": "validation", "test": "test"}
# Trainer's figures that are no metrics.
TIMES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def final_metrics(history: Sequence[Mapping[str, Any]], best_step: int | None) -> dict[str, dict[str, float]]:
    """The metrics of the model that the run ended with, by split and name; a split without any is left out.

    Args:
        history: `TrainerState.log_history`.
        best_step: Step of the checkpoint that was loaded at the end; None if the last one was kept.
    """
    ended = max((place for place, log in enumerate(history) if "train_runtime" in log), default=len(history))
    found = {}
    for prefix, split in SPLITS.items():
        after = _last(history[ended:], prefix)
        during = _last([log for log in history if best_step in (None, log.get("step"))], prefix)
        if after or during:
            found[split] = after or during
    return found


def _last(history: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, float]:
    """All metrics of the last step that has some: several evaluation datasets have a line each."""
    lines = [(log.get("step"), _metrics(log, prefix)) for log in history]
    lines = [(step, metrics) for step, metrics in lines if metrics]
    return {name: value for step, metrics in lines if step == lines[-1][0] for name, value in metrics.items()}


def _metrics(log: Mapping[str, Any], prefix: str) -> dict[str, float]:
    named = {key[len(prefix) + 1 :]: value for key, value in log.items() if key.startswith(f"{prefix}_")}
    return {
        name: float(value)
        for name, value in named.items()
        # Of one of several datasets too; and the Hub's metadata has no NaN.
        if not name.endswith(TIMES) and isinstance(value, (int, float)) and math.isfinite(value)
    }


def eval_results(metrics: Mapping[str, Mapping[str, float]], task: str, data: Origin) -> list[EvalResult]:
    """The metrics as a card's `model-index` has them."""
    return [
        EvalResult(
            task_type=task,
            dataset_type=data.hub_id or data.kind,
            dataset_name=data.name,
            dataset_config=data.config,
            dataset_revision=data.revision,
            dataset_split=split,
            metric_type=name,
            metric_name=f"{name.replace('_', ' ').capitalize()} ({split})",
            metric_value=value,
        )
        for split, found in metrics.items()
        for name, value in found.items()
    ]


def metric_rows(metrics: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """One row a metric, one column a split; empty without any."""
    names = list(dict.fromkeys(name for found in metrics.values() for name in found))
    rows = [["metric", *metrics]]
    for name in names:
        rows.append([name.replace("_", " "), *(_number(found.get(name)) for found in metrics.values())])
    return rows if names else []


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
