"""The classes that a model tells apart, as far as that can be told without loading a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

SINGLE_LABEL = (None, "single_label_classification")


def class_names(model: Any) -> tuple[str, ...]:
    """Names of a model's classes, in the order of its logits; empty without a config."""
    by_index = getattr(getattr(model, "config", None), "id2label", None) or {}
    return tuple(str(by_index[index]) for index in sorted(by_index))


@dataclass(frozen=True)
class ModelClasses:
    """Of a model and its objective.

    Args:
        names: In the order of the logits; empty for a model without a config.
        count: C, where each sample is to have one class; None where that cannot be told.
        may_be_single: Whether each sample may have one class.
        are_single: Whether the model's `problem_type` says so.
    """

    names: tuple[str, ...]
    count: int | None
    may_be_single: bool
    are_single: bool

    @classmethod
    def of(cls, model: Any, head: nn.Module, own_objective: bool) -> ModelClasses:
        """Those of a model.

        Args:
            model: Perhaps with a config.
            head: Its classification head.
            own_objective: Whether the user has given the loss: then labels may be anything.
        """
        config, names = getattr(model, "config", None), class_names(model)
        single = getattr(config, "problem_type", None) in SINGLE_LABEL
        count = (len(names) if single else 0) if hasattr(model, "config") else getattr(head, "out_features", 0)
        return cls(
            names=names,
            count=count if count > 1 and not own_objective else None,
            may_be_single=single and (own_objective or getattr(config, "num_labels", None) != 1),
            are_single=single,
        )
