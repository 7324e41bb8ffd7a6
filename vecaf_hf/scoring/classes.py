"""The classes that a model tells apart, as far as that can be told without loading a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.models.auto import modeling_auto

from vecaf_hf.scoring.head import without_wrappers

SINGLE_LABEL = (None, "single_label_classification")


def class_names(model: Any) -> tuple[str, ...]:
    """Names of a model's classes, in the order of its logits; empty without a config."""
    by_index = getattr(getattr(model, "config", None), "id2label", None) or {}
    return tuple(str(by_index[index]) for index in sorted(by_index))


def settle_names(model: Any) -> None:
    """Make the list of names that a timm model is saved with that of its classes.

    transformers' wrapper (5.23, models/timm_wrapper/configuration_timm_wrapper.py) saves `label_names` as they were
    loaded, or `id2label` in the order in which it was written, and reads them alone: a model that was finetuned on
    other classes comes back with the old ones' names.
    """
    config: Any = getattr(model, "config", None)
    names = list(class_names(model))
    if getattr(config, "model_type", None) != "timm_wrapper":
        return
    known = list(getattr(config, "label_names", None) or [])
    are_numbers = names == [f"LABEL_{index}" for index in range(len(names))]
    # Told by their number alone, they are those that the model was loaded with.
    if not (are_numbers and len(known) == len(names)):
        config.label_names = names


def _named_for(tasks: Callable[[str], bool]) -> set[str]:
    """Classes of transformers that its auto classes know for some tasks."""
    known = [values for name, values in vars(modeling_auto).items() if name.endswith("_MAPPING_NAMES") and tasks(name)]
    found = [classes for values in known for classes in values.values()]
    return {name for classes in found for name in ((classes,) if isinstance(classes, str) else classes)}


def other_task(model: Any) -> str | None:
    """The class of a model of transformers that does not classify whole samples (segmentation, token classification,
    multiple choice, language modelling, ...); None for classifiers, and for classes that transformers does not know."""
    names = [one.__name__ for one in type(without_wrappers(model)).__mro__]
    return None if CLASSIFIERS & {*names} else next((name for name in names if name in OTHERS), None)


# Of tokens, of parts of a sound, or of any classes that a text names.
PARTS = ("TOKEN", "FRAME", "ZERO_SHOT")
CLASSIFIERS = _named_for(lambda task: "CLASSIFICATION" in task and not any(part in task for part in PARTS))
OTHERS = (
    _named_for(
        lambda task: (
            task.startswith("MODEL_FOR_")
            and not any(one in task for one in ("_FOR_IMAGE_MAPPING", "BACKBONE", "TEXT_ENCODING"))
        )
    )
    - CLASSIFIERS
)


def other_labels(model: Any, own_objective: bool) -> str | None:
    """What a model's config says of its labels where they are not one class per sample; None where they may be.

    Args:
        model: Perhaps with a config.
        own_objective: Whether the user has given the loss: one output may tell two classes apart then.
    """
    if (task := other_task(model)) is not None:
        return f"{task} does not classify whole samples"
    config = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    if problem not in SINGLE_LABEL:
        return f"problem_type is {problem!r}"
    one_output = not own_objective and getattr(config, "num_labels", None) == 1
    return "num_labels is 1 (regression)" if one_output else None


@contextmanager
def problem_type_kept(model: Any) -> Iterator[None]:
    """A model of transformers 5.23 settles its config's unset `problem_type` by the first labels that it sees, for good
    (loss/loss_utils.py, ForSequenceClassificationLoss): training's are to be the first, not those of this block."""
    config: Any = getattr(model, "config", None)
    before = getattr(config, "problem_type", None)
    try:
        yield
    finally:
        if getattr(config, "problem_type", None) != before:
            config.problem_type = before


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
    def of(cls, model: Any, head: nn.Module | None, own_objective: bool) -> ModelClasses:
        """Those of a model.

        Args:
            model: Perhaps with a config.
            head: Its classification head, as far as a name tells.
            own_objective: Whether the user has given the loss: then labels may be anything.
        """
        config, names = getattr(model, "config", None), class_names(model)
        single = getattr(config, "problem_type", None) in SINGLE_LABEL and other_task(model) is None
        count = (len(names) if single else 0) if hasattr(model, "config") else getattr(head, "out_features", 0)
        return cls(
            names=names,
            count=count if count > 1 and not own_objective else None,
            may_be_single=other_labels(model, own_objective) is None,
            are_single=single,
        )
