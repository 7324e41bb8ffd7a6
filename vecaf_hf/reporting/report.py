"""What a card, plots and a summary tell of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.augmentation.callback import CEACallback
from vecaf_hf.conditions.stored import Failing
from vecaf_hf.loop.record import LoopRecord


@dataclass(frozen=True)
class RunReport:
    """A run as it is now.

    Args:
        args: Its options.
        model: What was finetuned.
        train_dataset: The pool, or None.
        class_names: Of the model.
        records: One a loop.
        history: Trainer's log.
        work: By kind, as `CostMeter` has it.
        skipped: Samples that could not be loaded.
        cea: Its augmentation, or None.
        best_step: Step of the best checkpoint, where the model is that one; else None.
        has_processor: Whether a processor is saved beside the model.
        repository: Where it is pushed to, if that is known.
        failing: The conditions under which it fails, where they were looked for.
    """

    args: VeCAFArguments
    model: Any
    train_dataset: Any
    class_names: Sequence[str]
    records: Sequence[LoopRecord]
    history: Sequence[Mapping[str, Any]]
    work: Mapping[str, Mapping[str, float]]
    skipped: int
    cea: CEACallback | None
    best_step: int | None
    has_processor: bool
    repository: str | None
    failing: Failing | None = None
