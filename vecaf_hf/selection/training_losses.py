"""What selects by the losses that training saw, without a forward pass of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.allocation import class_claims, first_of_classes, largest_of_classes, shares
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.weighting import loss_weights

# Part of the run after which all of `trimmed_fraction` is left out; before, a part of it by progress: a model that has
# seen little tells wrong labels from hard samples badly (Co-teaching's drop rate, arXiv 1804.06872).
RAMP = 1 / 3
# InfoBatch's r: the probability that a well-learned sample is pruned.
PRUNED = 0.5
# InfoBatch's delta: the part of the run after which nothing is pruned.
ANNEALED = 0.875


@strategy(needs={"training_losses"}, wants={"labels"})
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
    losses = seen_losses(candidates)
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


def seen_losses(candidates: Candidates) -> Tensor:
    """Losses that training saw, at least 0, NaN where it saw none. [M], on the CPU."""
    candidates.check_not_negative("training_losses")
    return candidates.given("training_losses").cpu()


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


@strategy(needs={"training_losses", "progress", "labels"}, heeds={"class_balance"})
def trimmed(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """Random subsets, the same number of each class, without the largest losses that training saw in a class.

    After trimmed loss minimization (arXiv 1810.11874), by class and without a forward pass. Of a class's samples that
    training has seen, `trimmed_fraction` have the largest losses and are left out, as long as the others are enough for
    the class's share: of a class that is taken whole nothing is. Samples that training has not seen yet come first, the
    others are as likely as each other. The option `class_balance` can give classes other shares than equal ones.

    A loss is that of the step that saw the sample last. Losses fall, and who is left out is not seen again: most of the
    left out are those that were the worst of an early loop, and they stay so.
    """
    assert candidates.progress is not None
    losses = seen_losses(candidates)
    _, classes, sizes = candidates.needed_classes("trimmed").cpu().unique(return_inverse=True, return_counts=True)
    part = options.trimmed_fraction * min(1.0, candidates.progress / RAMP)
    # Unseen ones, seen ones, the largest losses; at random in each.
    stage = losses.isfinite().long() + largest_of_classes(losses, classes, part).long()
    order = torch.randperm(len(losses), generator=generator) + len(losses) * stage
    claims = class_claims(sizes, options.class_balance)
    due = shares(budget, claims, sizes, candidates.turn_by(generator))
    return Selection(candidates.indices.cpu()[first_of_classes(order, classes, due)])


@strategy(needs={"training_losses", "progress"}, size="own", weighs=True)
def infobatch(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """InfoBatch (arXiv 2303.04947): all but a random half of those whose last training loss is below the mean.

    The budget is ignored. The half that stays has twice the weight of the other samples, so that the expected loss is
    that of the whole pool; samples that training has not seen stay too. A loop that begins in the last 12.5 % of the
    run takes the whole pool with equal weights. Where none begins there, as with fewer than 8 loops of equal length,
    the run prunes to its end. In the paper a loop is an epoch, as where `num_loops` is not set.

    Weights have mean 1 over the selection, as all of ours have: a step's gradient is an unbiased estimate of that of
    the pool's mean loss, as without pruning. The paper leaves the weights 1 and 2, and its steps are larger by the size
    of the pool over that of the selection (4/3 where half of the losses are below the mean): it makes that many fewer
    in an epoch, while our runs have a fixed number.
    """
    assert candidates.progress is not None
    indices = candidates.indices.cpu()
    learned = well_learned(candidates.given("training_losses").cpu())
    if candidates.progress >= ANNEALED or not learned.any():
        return Selection(indices)
    kept = torch.ones_like(learned)
    kept[random_part(learned.nonzero()[:, 0], PRUNED, generator)] = False
    weights = torch.where(learned, 1 / (1 - PRUNED), 1.0)
    return Selection(indices[kept], weights[kept])


def well_learned(losses: Tensor) -> Tensor:
    """Which losses, NaN where unknown, are below the mean of the known ones. [M] -> BoolTensor [M]."""
    # In double precision the mean of equal losses is not above them.
    losses = losses.double()
    return losses < losses.nanmean()


def random_part(rows: Tensor, part: float, generator: torch.Generator) -> Tensor:
    """A random part of these rows, to the nearest whole number on either side: each row is as likely as `part` says.

    LongTensor [n] -> [about part * n].
    """
    count = int(part * len(rows) + torch.rand((), dtype=torch.float64, generator=generator))
    return rows[torch.randperm(len(rows), generator=generator)[:count]]
