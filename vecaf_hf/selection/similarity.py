"""Cosine similarities between a pool and centroids, in chunks: no N x K matrix is ever held."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Similarities held at once: 2^24 floats are 64 MiB.
CHUNK_ELEMENTS = 2**24


def chunks(rows: Tensor, columns: int) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive blocks of `rows`, sized so that block x columns stays within CHUNK_ELEMENTS."""
    size = max(1, CHUNK_ELEMENTS // max(1, columns))
    for start in range(0, len(rows), size):
        yield slice(start, start + size), rows[start : start + size]


def nearest(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Largest inner product of each query with any key, and that key's row. [N, d], [K, d] -> [N], [N]."""
    values = queries.new_empty(len(queries))
    rows = torch.empty(len(queries), dtype=torch.long, device=queries.device)
    for where, block in chunks(queries, len(keys)):
        torch.max(block @ keys.T, dim=1, out=(values[where], rows[where]))
    return values, rows


def top(queries: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest inner products of each query with the keys, falling. [K, d], [N, d] -> [K, m], [K, m]."""
    found = [(block @ keys.T).topk(count, dim=1) for _, block in chunks(queries, len(keys))]
    return torch.cat([values for values, _ in found]), torch.cat([rows for _, rows in found])
