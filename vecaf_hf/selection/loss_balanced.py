"""Objective-aware selection without a forward pass: the losses that training saw decide."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.candidates import Candidates
from vecaf_hf.selection.allocation import class_cells
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.weighting import loss_weights


def loss_balanced(
    candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator
) -> Selection:
    """Random subsets by class, unseen samples first, then by the losses that training saw; no forward pass.

    Eq. 3 of VeCAF (arXiv 2401.07853) with the losses that come with training. Each class has its share of the budget
    (`allocation`); in a class, what training has not seen yet comes first, and of the others each is drawn with a
    probability that follows the weight of its latest loss (`loss_weighting`). An unseen sample weighs as much as the
    seen ones of its class on average. A pool without one class per sample counts as one class.
    """
    assert candidates.training_losses is not None
    candidates.check_not_negative("training_losses")
    losses = candidates.training_losses.cpu()
    labels = torch.zeros(len(losses), dtype=torch.long) if candidates.classes is None else candidates.classes.cpu()
    seen = losses.isfinite()
    order = torch.rand(len(losses), generator=generator, dtype=torch.float64)
    weights = torch.ones_like(order)
    if seen.any():
        known = loss_weights(losses[seen], options.loss_weighting).double()
        _, classes = labels.unique(return_inverse=True)
        weights = class_means(classes, seen, known)[classes].masked_scatter(seen, known)
        # Unseen ones have less than 1.
        order[seen] = 1 + waiting_times(order[seen], known)
    cells = class_cells(labels, weights, budget, options.allocation)
    chosen = [cell.rows[order[cell.rows].argsort(stable=True)[: cell.budget]] for cell in cells]
    return Selection(candidates.indices.cpu()[torch.cat(chosen)])


def waiting_times(uniform: Tensor, weights: Tensor) -> Tensor:
    """Exponential waiting times at these rates: whoever is first, second, ... is drawn without replacement in
    proportion to the weights (Efraimidis and Spirakis, 2006). Samples without weight come last.

    Args:
        uniform: Draws from [0, 1). [n].
        weights: At least 0. [n].

    Returns:
        [n].
    """
    return -torch.log1p(-uniform) / weights.clamp(min=torch.finfo(weights.dtype).tiny)


def class_means(labels: Tensor, seen: Tensor, weights: Tensor) -> Tensor:
    """Mean weight of each class's seen samples; that of all of them for a class of which none has been seen.

    Args:
        labels: From 0 on. LongTensor [M].
        seen: BoolTensor [M], n of them true.
        weights: Of the seen samples. [n].

    Returns:
        [C].
    """
    count = int(labels.max()) + 1
    total = weights.new_zeros(count).index_add_(0, labels[seen], weights)
    size = torch.bincount(labels[seen], minlength=count)
    return torch.where(size > 0, total / size.clamp(min=1), weights.mean())
