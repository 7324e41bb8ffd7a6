"""Which samples of the pool are scored at a loop boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.allocation import ClassShares
from vecaf_hf.selection.candidates import Turn
from vecaf_hf.selection.drawing import drawn, drawn_by_class


def candidate_set(
    pool_size: int,
    count: int,
    labels: Tensor | None,
    generator: torch.Generator,
    class_balance: float = 0.0,
) -> Tensor:
    """`count` random positions of the pool, rising; with labels, so many of each class.

    Args:
        pool_size: N.
        count: At most N; with N it is the whole pool.
        labels: Class of each sample. LongTensor [N], or None.
        generator: Draws them.
        class_balance: How many: by default in proportion to the class; else as `class_claims` has it, for a selection
            that will take as many: few of a rare class would leave it no choice.

    Returns:
        LongTensor [count].
    """
    if count == pool_size:
        return torch.arange(pool_size)
    if labels is None:
        return drawn(pool_size, None, count, generator).sort().values
    due = ClassShares(Turn(generator.initial_seed()), class_balance)
    return drawn_by_class(labels, None, count, generator, due).sort().values
