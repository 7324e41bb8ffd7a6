"""Which loss a run trains on, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vecaf_hf.scoring.losses import SampleLoss, classification_losses, one_by_one, weighted_mean

SampleWeight = Callable[[Tensor], Tensor]


@dataclass
class Objective:
    """The finetuning objective.

    Args:
        sample_losses: (outputs, labels) -> [n], the loss of each sample; with weights, times its weight.
        reference: (outputs, labels) -> [], what training minimises for a batch, where that is computed elsewhere: the
            mean of `sample_losses` must equal it. None where `sample_losses` is the definition.
        reference_from_model: Whether `reference` reads the loss that the model returns when it is given labels.
        is_smoothed: Whether Trainer smooths the labels, which must be whole numbers then.
        sample_weights: labels -> [n]: training divides the losses' sum by theirs. None where it divides by n.

    Attributes:
        is_accepted: Whether it was compared with its reference once: what is accepted stays so.
    """

    sample_losses: SampleLoss
    reference: Callable[[Any, Tensor], Tensor] | None
    reference_from_model: bool = False
    sample_weights: SampleWeight | None = None
    is_accepted: bool = False
    is_smoothed: bool = False

    def mean(self, losses: Tensor, weights: Tensor, labels: Tensor, count: Any) -> Tensor:
        """The mean of samples' losses by their weights in the selection, divided by Trainer's count if it is given."""
        if self.sample_weights is None:
            return weighted_mean(losses, weights, labels, count)
        return (losses * weights).sum() / (self.total_weight(labels) if count is None else count)

    def total_weight(self, labels: Tensor) -> Tensor:
        """The sum of these samples' weights, [], above 0 in any case."""
        weights = torch.ones(len(labels)) if self.sample_weights is None else self.sample_weights(labels)
        return weights.float().sum().clamp(min=torch.finfo(torch.float32).tiny)


def find_objective(
    sample_loss_func: SampleLoss | None,
    compute_loss_func: Callable[..., Tensor] | None,
    problem_type: str | None,
    label_smoothing: float,
    sample_weight_func: SampleWeight | None = None,
) -> Objective:
    """The user's objective per sample, else the user's objective applied to each sample, else the model's own loss.

    Raises:
        ValueError: Two are given that exclude each other.
    """
    own = {"sample_loss_func": sample_loss_func, "sample_weight_func": sample_weight_func}
    for name, given in own.items():
        if given is not None and compute_loss_func is not None:
            raise ValueError(f"{name} and compute_loss_func are both given: keep {name}")
    losses = sample_loss_func or partial(
        classification_losses, problem_type=problem_type, label_smoothing=label_smoothing
    )
    if sample_weight_func is not None:
        weights = _checked(sample_weight_func)
        return Objective(lambda *args: losses(*args) * weights(args[1]), None, sample_weights=weights)
    if sample_loss_func is not None:
        return Objective(sample_loss_func, None)
    if compute_loss_func is not None:
        objective = compute_loss_func
        return Objective(
            one_by_one(objective), lambda outputs, labels: objective(outputs, labels, num_items_in_batch=labels.numel())
        )
    # With smoothing Trainer computes the loss itself, in place of the model.
    if label_smoothing:
        return Objective(losses, None, is_smoothed=problem_type != "multi_label_classification")
    return Objective(losses, _own_loss, reference_from_model=True)


def _checked(weigh: SampleWeight) -> SampleWeight:
    """The same, one finite weight of at least 0 for each sample, on the labels' device.

    Raises:
        ValueError: They are not.
    """

    def weights_of(labels: Tensor) -> Tensor:
        # Of labels on the CPU: a tensor of class weights may be anywhere.
        weights = weigh(labels.cpu())
        if not isinstance(weights, Tensor) or weights.shape != (len(labels),):
            got = list(weights.shape) if isinstance(weights, Tensor) else f"a {type(weights).__name__}"
            raise ValueError(
                f"sample_weight_func must return one weight per sample, a Tensor [{len(labels)}], and returned {got}: "
                "with weights of classes, lambda labels: weights[labels]"
            )
        if not bool((weights.isfinite() & (weights >= 0)).all()):
            raise ValueError(
                f"sample_weight_func must return finite weights of at least 0, and returned some between "
                f"{float(weights.min()):g} and {float(weights.max()):g}"
            )
        return weights.to(labels.device)

    return weights_of


def _own_loss(outputs: Any, labels: Tensor) -> Tensor:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]
    if loss is None or loss.dim() > 0:
        raise ValueError(
            "the model returns no loss when it is given labels: pass the objective as "
            "sample_loss_func(outputs, labels) -> Tensor[N]"
        )
    return loss
