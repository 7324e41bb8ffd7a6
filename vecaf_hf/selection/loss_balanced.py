"""Objective-aware selection without a forward pass: the losses that training saw decide."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.allocation import first_of_classes, shares
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.weighting import loss_weights


def loss_balanced(
    candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator
) -> Selection:
    """Random subsets whose class shares follow the losses that training saw; unseen samples first, no forward pass.

    Eq. 3 of VeCAF (arXiv 2401.07853) between classes, with the losses that come with training: a class's share is
    proportional to the mean weight (`loss_weighting`) of its samples' latest losses, and no larger than the class. In a
    class, samples that training has not seen yet come first, and the others are as likely as each other: there large
    losses are those of wrong labels too. Equal shares before training has seen anything. A pool without one class per
    sample counts as one class.

    Not for a run that goes many times through a class of few samples: it knows them by heart, and their losses say that
    the class needs no more.
    """
    assert candidates.training_losses is not None
    candidates.check_not_negative("training_losses")
    losses = candidates.training_losses.cpu()
    labels = torch.zeros(len(losses), dtype=torch.long) if candidates.classes is None else candidates.classes.cpu()
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    seen = losses.isfinite()
    claims = torch.ones(len(sizes))
    if seen.any():
        weighting, part = options.loss_weighting, options.trimmed_fraction
        claims = class_means(classes, seen, loss_weights(losses[seen], weighting, classes[seen], part).double())
    # At random, unseen ones first. Places in the permutation, for the draws to be those of earlier versions.
    order = torch.randperm(len(losses), generator=generator).argsort() + len(losses) * seen.long()
    due = shares(budget, claims, sizes, candidates.turn_by(generator))
    return Selection(candidates.indices.cpu()[first_of_classes(order, classes, due)])


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
