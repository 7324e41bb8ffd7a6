"""Directions."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


def unit(vectors: Tensor) -> Tensor:
    """Rows divided by their l2 norm; a zero row stays zero (its cosine with anything counts as 0)."""
    return normalize(vectors, dim=-1)
