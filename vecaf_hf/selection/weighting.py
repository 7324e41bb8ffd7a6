"""From losses to ODS's target distribution (Eq. 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vecaf_hf.selection.allocation import largest_of_classes

LossWeighting = Callable[[Tensor], Tensor]

CLIP_QUANTILE = 0.95
TRIMMED_FRACTION = 0.2


def raw(losses: Tensor) -> Tensor:
    """The loss itself (Eq. 3 as published). Mislabelled and corrupt samples dominate it."""
    return losses


def clipped(losses: Tensor) -> Tensor:
    """The loss, winsorised at its 95th percentile."""
    # Not quantile, which refuses more than 2^24 elements, nor kthvalue, which CUDA has no deterministic form of.
    rank = max(1, round(CLIP_QUANTILE * losses.numel()))
    return losses.clamp(max=losses.sort().values[rank - 1])


def sqrt(losses: Tensor) -> Tensor:
    """The square root of the loss."""
    return losses.sqrt()


def uniform(losses: Tensor) -> Tensor:
    """The same for all: ActiveFT (arXiv 2303.14382)."""
    return torch.ones_like(losses)


def trimmed(losses: Tensor, classes: Tensor | None = None, fraction: float = TRIMMED_FRACTION) -> Tensor:
    """The loss itself, but 0 for the largest of each class: among these are the mislabelled and the corrupt.

    Args:
        losses: [N].
        classes: LongTensor [N]; None where all are of one class.
        fraction: Part of each class, in [0, 1), rounded down.

    Returns:
        [N].
    """
    if classes is None:
        classes = torch.zeros(len(losses), dtype=torch.long)
    _, numbers = classes.cpu().unique(return_inverse=True)
    return losses.masked_fill(largest_of_classes(losses.cpu(), numbers, fraction).to(losses.device), 0)


LOSS_WEIGHTINGS: dict[str, LossWeighting] = {
    "raw": raw,
    "clipped": clipped,
    "sqrt": sqrt,
    "uniform": uniform,
    "trimmed": trimmed,
}


def loss_weights(
    losses: Tensor,
    weighting: str | LossWeighting,
    classes: Tensor | None = None,
    trimmed_fraction: float = TRIMMED_FRACTION,
) -> Tensor:
    """Weight of each sample before normalisation.

    Args:
        losses: [N].
        weighting: A name in `LOSS_WEIGHTINGS`, or losses [N] -> weights [N].
        classes: For `trimmed`, which counts the whole pool as one class without them. LongTensor [N].
        trimmed_fraction: Part of each class that `trimmed` leaves out.

    Returns:
        [N].

    Raises:
        ValueError: A callable returned another shape, or a negative or non-finite weight.
    """
    if weighting == "trimmed":
        weights = trimmed(losses, classes, trimmed_fraction)
    else:
        weights = (weighting if callable(weighting) else LOSS_WEIGHTINGS[weighting])(losses)
    expected = f"loss_weighting must return {list(losses.shape)} finite weights of at least 0"
    if not isinstance(weights, Tensor) or weights.shape != losses.shape:
        shape = list(weights.shape) if isinstance(weights, Tensor) else f"a {type(weights).__name__}"
        raise ValueError(f"{expected}, got {shape}: use elementwise operations of torch")
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError(f"{expected}, got some between {float(weights.min()):g} and {float(weights.max()):g}")
    return weights.to(losses.dtype)  # a callable may return a mask


def target_distribution(weights: Tensor) -> Tensor:
    """p_L of Eq. 3: weights divided by their sum; uniform where all are zero. [N] -> [N]."""
    total = weights.sum()
    return weights / total if total > 0 else torch.full_like(weights, 1 / weights.numel())
