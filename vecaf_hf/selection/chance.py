"""What selects by chance, whatever the model thinks: from all samples, by class, by group; and the whole pool."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.seeding import seed_of
from vecaf_hf.selection.allocation import ClassShares, class_claims, first_of_classes, shares
from vecaf_hf.selection.candidates import Candidates, Turn
from vecaf_hf.selection.drawing import drawn, drawn_by_class
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.selection import Selection


@strategy(wants={"relevance"})
def random(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """K samples, each as likely as any other."""
    return Selection(candidates.indices.cpu()[drawn(len(candidates), candidates.relevance, budget, generator)])


@strategy(needs={"labels"}, wants={"relevance"}, heeds={"class_balance"})
def balanced(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """K random samples, the same number of each class as far as the class has them.

    The option `class_balance` can give classes other shares than equal ones.
    """
    classes = candidates.needed_classes("balanced")
    due = ClassShares.of(candidates, options.class_balance, generator)
    rows = drawn_by_class(classes, candidates.relevance, budget, generator, due)
    return Selection(candidates.indices.cpu()[rows])


@strategy(size="all")
def full(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """The whole pool, whatever the budget: every batch is a fresh part of an epoch."""
    return Selection(candidates.indices)


@strategy(needs={"labels", "groups"}, heeds={"class_balance"})
def group_balanced(
    candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator
) -> Selection:
    """K random samples, the same number of each group of each class as far as it has them; needs `group_column`.

    An upper bound for what selects without knowing the groups, and no method: if the groups were known, there would be
    nothing to find. Classes have equal shares (or by `class_balance`), and so have the groups inside a class. What has
    fewer samples than its share gives all, and the others share the rest. What is left over after equal shares goes
    round among the classes from loop to loop, and in a class to groups that the seed draws, others in each loop.
    """
    labels = candidates.needed_classes("group_balanced").cpu()
    pairs, cells, sizes = torch.stack([labels, candidates.given("groups").cpu()]).unique(
        dim=1, return_inverse=True, return_counts=True
    )
    order = torch.randperm(len(cells), generator=generator)
    _, classes = pairs[0].unique(return_inverse=True)
    due = cell_shares(budget, classes, sizes, options.class_balance, candidates.turn_by(generator))
    return Selection(candidates.indices.cpu()[first_of_classes(order, cells, due)])


def cell_shares(budget: int, classes: Tensor, sizes: Tensor, class_balance: float, turn: Turn) -> Tensor:
    """Shares of the classes, and equal ones of the cells inside each, as far as they have them.

    Args:
        budget: At most the sum of the sizes.
        classes: Of each cell, from 0 on. LongTensor [C].
        sizes: Of the cells. LongTensor [C].
        class_balance: Of `class_claims`.
        turn: Decides what is left over.

    Returns:
        LongTensor [C].
    """
    together = torch.zeros(int(classes.max()) + 1, dtype=torch.long).index_add_(0, classes, sizes)
    due = torch.empty_like(sizes)
    for number, share in enumerate(shares(budget, class_claims(together, class_balance), together, turn).tolist()):
        cells = classes == number
        # A turn of its own: the class's own turn, with which a fixed order could fall into step, changes the share.
        inner = Turn(seed_of(turn.seed, turn.loop, number))
        due[cells] = shares(share, class_claims(sizes[cells], 1.0), sizes[cells], inner)
    return due
