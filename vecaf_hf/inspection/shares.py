"""How a selection differs from its pool: by class and by loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 40
# Losses above this quantile of the pool's are counted in the histogram's last bin.
LAST_BIN = 0.995


@dataclass(frozen=True)
class ClassShare:
    """Samples of one class.

    Args:
        label: Its number.
        name: Its name.
        pool: Samples in the pool.
        selected: Samples in the selection.
    """

    label: int
    name: str
    pool: int
    selected: int


@dataclass(frozen=True)
class Histogram:
    """Losses of the selected samples beside those of the pool.

    Args:
        edges: Of the bins; the last bin holds what lies above it too. BINS + 1.
        pool: Part of the pool in each bin.
        selected: Part of the selection in each bin.
        pool_mean: Mean loss of the pool.
        selected_mean: Mean loss of the selection.
    """

    edges: tuple[float, ...]
    pool: tuple[float, ...]
    selected: tuple[float, ...]
    pool_mean: float
    selected_mean: float


def class_shares(pool: Tensor | None, selected: Tensor | None, names: Sequence[str]) -> tuple[ClassShare, ...]:
    """One entry a class of the pool; none where samples have no class. LongTensor [N], LongTensor [K]."""
    if pool is None or selected is None:
        return ()
    values, counts = pool.unique(return_counts=True)
    taken = [int((selected == value).sum()) for value in values]
    return tuple(
        ClassShare(label, names[label] if label < len(names) else str(label), count, chosen)
        for label, count, chosen in zip(values.tolist(), counts.tolist(), taken, strict=True)
    )


def class_parts(shares: Sequence[ClassShare]) -> list[tuple[float, float]]:
    """Each class's part of the pool and of the selection, in [0, 1]; 0 of what is empty."""
    pool, selected = (max(1, sum(getattr(one, of) for one in shares)) for of in ("pool", "selected"))
    return [(one.pool / pool, one.selected / selected) for one in shares]


def loss_histogram(pool: Tensor, selected: Tensor) -> Histogram | None:
    """Two histograms on the same bins; None where there is nothing to compare. [n], [k]."""
    if not len(pool) or not len(selected):
        return None
    pool, selected = pool.double(), selected.double()
    low, high = float(pool.min()), float(np.quantile(pool.numpy(), LAST_BIN))
    edges = torch.linspace(low, max(high, low + 1e-6), BINS + 1, dtype=torch.float64)

    def parts(losses: Tensor) -> tuple[float, ...]:
        return tuple((torch.histogram(losses.clamp(low, float(edges[-1])), edges).hist / len(losses)).tolist())

    return Histogram(tuple(edges.tolist()), parts(pool), parts(selected), float(pool.mean()), float(selected.mean()))
