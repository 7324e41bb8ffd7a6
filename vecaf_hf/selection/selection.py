"""What a strategy returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """The samples to train on until the next loop boundary.

    Args:
        indices: Positions in the pool, distinct. LongTensor [K].
        weights: How much of the pool each sample stands for, mean 1: factors on its training loss. [K], or None for
            equal shares.
        info: Figures about how the selection was made (objective, steps), for logs. NumPy's and torch's numbers
            become Python's, which a checkpoint can hold.
        centroid_similarity: Cosine similarity of each sample to the centroid that took it, NaN where none did; None
            from a strategy without centroids. For looking at: no checkpoint keeps it. [K].

    Raises:
        ValueError: Indices repeat, are negative or no whole numbers, the weights have another length or are negative,
            or a figure is no number.
    """

    indices: Tensor
    weights: Tensor | None = None
    info: dict[str, float] = field(default_factory=dict)
    centroid_similarity: Tensor | None = None

    def __post_init__(self) -> None:
        indices = torch.as_tensor(self.indices)
        if indices.dim() != 1 or indices.numel() == 0:
            raise ValueError(f"a selection needs at least one index in a LongTensor [K], got {list(indices.shape)}")
        if indices.is_floating_point() or indices.dtype == torch.bool:
            raise ValueError(
                f"a selection's indices are whole numbers, got {indices.dtype}: of a mask, give `mask.nonzero()[:, 0]`"
            )
        indices = indices.long().cpu()
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "info", {name: _figure(name, value) for name, value in self.info.items()})
        if indices.min() < 0:
            raise ValueError(f"a selection holds the negative index {int(indices.min())}")
        values, counts = indices.unique(return_counts=True)
        if len(values) != len(indices):
            raise ValueError(f"a selection holds sample {int(values[counts > 1][0])} more than once")
        if self.weights is not None:
            weights = torch.as_tensor(self.weights, dtype=torch.float32).cpu()
            valid = weights.isfinite() & (weights >= 0)
            if weights.shape != indices.shape or not bool(valid.all()) or weights.sum() == 0:
                raise ValueError("weights must be one finite, non-negative number per selected sample, not all zero")
            # Those of another selection or a checkpoint have mean 1 already, and stay as they are to the last bit.
            mean = float(weights.double().mean())
            object.__setattr__(self, "weights", weights if abs(mean - 1) < 1e-6 else weights / mean)

    def __len__(self) -> int:
        return len(self.indices)


def _figure(name: object, value: Any) -> float:
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and math.prod(value.shape) == 1:
        value = value.item()
    if not isinstance(name, str) or not isinstance(value, (int, float)):
        raise ValueError(f"info[{name!r}] of a selection is {value!r:.80}; a figure is one number under a name")
    return value
