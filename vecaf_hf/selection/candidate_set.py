"""Which samples of the pool are scored at a loop boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.allocation import class_cells


def candidate_set(
    pool_size: int,
    count: int,
    labels: Tensor | None,
    generator: torch.Generator,
    allocation: str = "class_proportional",
) -> Tensor:
    """`count` random positions of the pool, rising; with labels, so many of each class.

    Args:
        pool_size: N.
        count: At most N; with N it is the whole pool.
        labels: Class of each sample. LongTensor [N], or None.
        generator: Draws them.
        allocation: How many: `class_proportional`, or `class` (equally many, as far as the class has them) for a
            selection that will take equally many: few of a rare class would leave it no choice.

    Returns:
        LongTensor [count].
    """
    if count == pool_size:
        return torch.arange(pool_size)
    cells = class_cells(labels, torch.ones(pool_size), count, allocation)
    drawn = [cell.rows[torch.randperm(len(cell.rows), generator=generator)[: cell.budget]] for cell in cells]
    return torch.cat(drawn).sort().values
