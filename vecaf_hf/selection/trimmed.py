"""Class balance without the samples whose labels look wrong: the losses that training saw tell them."""

from __future__ import annotations

import torch

from vecaf_hf.selection.allocation import class_claims, first_of_classes, largest_of_classes, shares
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection

# Part of the run after which all of `trimmed_fraction` is left out; before, a part of it by progress: a model that has
# seen little tells wrong labels from hard samples badly (Co-teaching's drop rate, arXiv 1804.06872).
RAMP = 1 / 3


def trimmed(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """Random subsets, the same number of each class, without the largest losses that training saw in a class.

    After trimmed loss minimization (arXiv 1810.11874), by class and without a forward pass. Of a class's samples that
    training has seen, `trimmed_fraction` have the largest losses and are left out, as long as the others are enough for
    the class's share: of a class that is taken whole nothing is. Samples that training has not seen yet come first, the
    others are as likely as each other. The option `class_balance` can give classes other shares than equal ones.

    A loss is that of the step that saw the sample last. Losses fall, and who is left out is not seen again: most of the
    left out are those that were the worst of an early loop, and they stay so.
    """
    assert candidates.training_losses is not None and candidates.progress is not None
    candidates.check_not_negative("training_losses")
    losses = candidates.training_losses.cpu()
    _, classes, sizes = candidates.needed_classes("trimmed").cpu().unique(return_inverse=True, return_counts=True)
    part = options.trimmed_fraction * min(1.0, candidates.progress / RAMP)
    # Unseen ones, seen ones, the largest losses; at random in each.
    stage = losses.isfinite().long() + largest_of_classes(losses, classes, part).long()
    order = torch.randperm(len(losses), generator=generator) + len(losses) * stage
    claims = class_claims(sizes, options.class_balance)
    due = shares(budget, claims, sizes, candidates.turn_by(generator))
    return Selection(candidates.indices.cpu()[first_of_classes(order, classes, due)])
