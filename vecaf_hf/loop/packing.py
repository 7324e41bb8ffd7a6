"""Large selections in little room, bit for bit: a checkpoint holds those of all loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def packed_indices(indices: Tensor) -> Tensor:
    """Rising indices that take less room as a mask: its bits, uint8. Others: int32. LongTensor [K]."""
    size = int(indices[-1]) + 1
    if size > 32 * len(indices) or not bool((indices[1:] > indices[:-1]).all()):
        return indices.int()
    mask = np.zeros(size, dtype=bool)
    mask[indices.numpy()] = True
    return torch.from_numpy(np.packbits(mask))


def unpacked_indices(packed: Tensor) -> Tensor:
    if packed.dtype != torch.uint8:
        return packed.long()
    return torch.from_numpy(np.unpackbits(packed.numpy())).nonzero()[:, 0]


def packed_weights(weights: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weights that take less room as places in a table of few values: the table and the places, uint8. Others: as they
    are. [K]."""
    values, places = weights.unique(return_inverse=True)
    if len(values) > 256 or 4 * len(values) + len(weights) >= 4 * len(weights):
        return weights, None
    return values, places.byte()


def unpacked_weights(values: Tensor, places: Tensor | None) -> Tensor:
    return values if places is None else values[places.long()]
