"""The oracle of pools that hide groups inside their classes: it sees what no other strategy may."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.candidates import Candidates
from vecaf_hf.selection.allocation import first_of_classes, shares
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection


def group_balanced(
    candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator
) -> Selection:
    """K random samples, the same number of each group of each class as far as it has them; needs `group_column`.

    An upper bound for what selects without knowing the groups, and no method: if the groups were known, there would be
    nothing to find. A cell, one group of one class, that has fewer samples than its share gives all, and the others
    share the rest. What is left over after equal shares goes to cells that the seed draws, others in each loop.
    """
    assert candidates.groups is not None
    classes = candidates.needed_classes("group_balanced").cpu()
    _, cells, sizes = torch.stack([classes, candidates.groups.cpu()]).unique(
        dim=1, return_inverse=True, return_counts=True
    )
    order = torch.randperm(len(cells), generator=generator)
    chosen = first_of_classes(order, cells, drawn_shares(budget, sizes, generator))
    return Selection(candidates.indices.cpu()[chosen])


def drawn_shares(budget: int, sizes: Tensor, generator: torch.Generator) -> Tensor:
    """Equal shares of the budget, as far as the cells have them; the generator draws who gets one more.

    Args:
        budget: At most the sum of the sizes.
        sizes: LongTensor [C].
        generator: On the CPU.

    Returns:
        LongTensor [C].
    """
    turns = torch.randperm(len(sizes), generator=generator)
    due = torch.empty_like(sizes)
    due[turns] = shares(budget, torch.ones(len(sizes)), sizes[turns])
    return due
