"""Which loss a run trains on, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from vecaf_hf.scoring.losses import SampleLoss, classification_losses, one_by_one


@dataclass(frozen=True)
class Objective:
    """The finetuning objective.

    Args:
        sample_losses: (outputs, labels) -> [n], the loss of each sample.
        reference: (outputs, labels) -> [], what training minimises for a batch, where that is computed elsewhere: the
            mean of `sample_losses` must equal it. None where `sample_losses` is the definition.
        reference_from_model: Whether `reference` reads the loss that the model returns when it is given labels.
    """

    sample_losses: SampleLoss
    reference: Callable[[Any, Tensor], Tensor] | None
    reference_from_model: bool = False


def find_objective(
    sample_loss_func: SampleLoss | None,
    compute_loss_func: Callable[..., Tensor] | None,
    problem_type: str | None,
    label_smoothing: float,
) -> Objective:
    """The user's objective per sample, else the user's objective applied to each sample, else the model's own loss.

    Raises:
        ValueError: Both objectives are given.
    """
    if sample_loss_func is not None and compute_loss_func is not None:
        raise ValueError("sample_loss_func and compute_loss_func are both given: keep sample_loss_func")
    if sample_loss_func is not None:
        return Objective(sample_loss_func, None)
    if compute_loss_func is not None:
        objective = compute_loss_func
        return Objective(
            one_by_one(objective), lambda outputs, labels: objective(outputs, labels, num_items_in_batch=labels.numel())
        )
    losses = partial(classification_losses, problem_type=problem_type, label_smoothing=label_smoothing)
    # With smoothing Trainer computes the loss itself, in place of the model.
    return Objective(losses, None) if label_smoothing else Objective(losses, _own_loss, reference_from_model=True)


def _own_loss(outputs: Any, labels: Tensor) -> Tensor:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]
    if loss is None or loss.dim() > 0:
        raise ValueError(
            "the model returns no loss when it is given labels: pass the objective as "
            "sample_loss_func(outputs, labels) -> Tensor[N]"
        )
    return loss
