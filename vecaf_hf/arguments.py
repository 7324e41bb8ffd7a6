"""Every option of a run: Trainer's arguments, a selection's options, and the loop's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import STRATEGIES
from vecaf_hf.validation import check_at_least, check_choice

SAMPLE_WEIGHTS = ("none", "mass")
DEFAULT_FRACTION = 0.1


@dataclass
class VeCAFArguments(TrainingArguments, SelectionOptions):
    """`TrainingArguments` with the options of VeCAF.

    `max_steps`, or `num_train_epochs` over the pool, give the total number of batches as for Trainer. A loop is
    one Trainer epoch, so `eval_strategy="epoch"` evaluates at every loop's end.

    Raises:
        ValueError: An option has no meaning, or one of Trainer's breaks the loops. Raised at construction.
    """

    num_loops: int = field(
        default=3,
        metadata={"help": "Loops L: the run's batches are divided evenly, and each loop selects anew."},
    )
    selection_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Part of the pool selected per loop, in (0, 1]; "
            f"{DEFAULT_FRACTION} unless selection_budget is given."
        },
    )
    selection_budget: int | None = field(
        default=None, metadata={"help": "Samples K selected per loop, instead of selection_fraction."}
    )
    single_run: bool = field(
        default=False, metadata={"help": "Select once, before the first loop, and keep that selection."}
    )
    scoring_fraction: float = field(
        default=1.0,
        metadata={
            "help": "Part of the pool scored at each boundary, in (0, 1]: below 1 the selection is made from a fresh "
            "random candidate set, stratified by class."
        },
    )
    scoring_batch_size: int | None = field(
        default=None,
        metadata={"help": "Batch per process of the scoring pass; per_device_eval_batch_size if not set."},
    )
    head_warmup: bool = field(
        default=False,
        metadata={
            "help": "Before the first selection, fit the head on the pool's frozen embeddings by logistic regression: "
            "a fresh head's losses say nothing."
        },
    )
    sample_weights: str = field(
        default="none",
        metadata={
            "help": "Weights of selected samples in the training loss: none, or mass, the part of the pool that each "
            "stands for (undoes the selection's bias)."
        },
    )
    head: str | None = field(
        default=None,
        metadata={"help": "Dotted name of the classification head inside the model, where it is not found by itself."},
    )
    label_column: str | None = field(
        default=None, metadata={"help": "The dataset's column of labels, where it is not found by itself."}
    )

    def __post_init__(self) -> None:
        TrainingArguments.__post_init__(self)
        SelectionOptions.__post_init__(self)
        check_choice("strategy", self.strategy, STRATEGIES)
        check_choice("sample_weights", self.sample_weights, SAMPLE_WEIGHTS, or_callable=False)
        check_at_least("num_loops", self.num_loops, 1)
        self._check_sizes()
        self._refuse_what_breaks_loops()

    def _check_sizes(self) -> None:
        if self.selection_fraction is not None and self.selection_budget is not None:
            raise ValueError("selection_fraction and selection_budget are both given: keep one")
        for name in ("selection_fraction", "scoring_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} is {value}; it must be above 0 and at most 1")
        for name in ("selection_budget", "scoring_batch_size"):
            value = getattr(self, name)
            if value is not None:
                check_at_least(name, value, 1)
        if 0 < self.max_steps < self.num_loops:
            raise ValueError(f"num_loops is {self.num_loops}, more than max_steps ({self.max_steps})")

    def _refuse_what_breaks_loops(self) -> None:
        reasons = {
            "ignore_data_skip": "a resumed loop must go on with the samples that it had not used",
            "auto_find_batch_size": "a changed batch size changes the loops; find the batch size before the run",
            "fsdp": "it is not supported: the head of a sharded model sees no whole embedding",
            "deepspeed": "it is not supported: the head of a sharded model sees no whole embedding",
        }
        for name, reason in reasons.items():
            if getattr(self, name, None):
                raise ValueError(f"{name} does not go with VeCAF: {reason}")
        if str(getattr(self, "train_sampling_strategy", "random")) != "random":
            raise ValueError(
                f"train_sampling_strategy={self.train_sampling_strategy!r} does not go with VeCAF: the selection "
                "decides what is sampled"
            )

    def budget(self, pool_size: int) -> int:
        """K for a pool of N samples: round(fraction * N), at least 1.

        Raises:
            ValueError: The budget is larger than the pool.
        """
        if self.selection_budget is None:
            fraction = DEFAULT_FRACTION if self.selection_fraction is None else self.selection_fraction
            return max(1, round(fraction * pool_size))
        if self.selection_budget > pool_size:
            raise ValueError(f"selection_budget is {self.selection_budget}, more than the pool's {pool_size} samples")
        return self.selection_budget

    def to_dict(self) -> dict[str, Any]:
        return {name: _named(value) for name, value in super().to_dict().items()}

    def __getstate__(self) -> dict[str, Any]:
        # Trainer writes its arguments beside each checkpoint; a user's local function could not be written.
        return {
            name: _named(value) if name in ("strategy", "loss_weighting") else value
            for name, value in vars(self).items()
        }


def _named(value: Any) -> Any:
    return getattr(value, "__qualname__", repr(value)) if callable(value) and not isinstance(value, type) else value
