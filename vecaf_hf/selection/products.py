"""Inner products of a pool with keys, in chunks: no N x K matrix is ever held."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

# Similarities held at once: 16 MiB of floats. On a CPU, a larger block has left the cache before it is read.
CHUNK_ELEMENTS = 2**22
# Blocks that are read and written several times are so many times smaller.
SMALLER = 16
# On an accelerator, 512 MiB: fewer and larger products.
ACCELERATOR_CHUNK_ELEMENTS = 2**27
# What processes that share a pool find must not depend on how many rows each of them has. MKL 2024.2 multiplies fewer
# than 4 rows, a matrix with a vector, and rows that begin at no multiple of 64 bytes in other ways, whose last bits are
# others.
LEAST_ROWS, ALIGNED_COLUMNS = 16, 16


def chunks(rows: Tensor, columns: int) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive blocks of `rows`, sized so that block x columns stays within the device's CHUNK_ELEMENTS."""
    elements = CHUNK_ELEMENTS if rows.device.type == "cpu" else ACCELERATOR_CHUNK_ELEMENTS
    size = max(1, elements // max(1, columns))
    for start in range(0, len(rows), size):
        yield slice(start, start + size), rows[start : start + size]


def products(queries: Tensor, keys: Tensor, out: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Inner products of consecutive blocks of queries with all keys, each [n, K].

    Each block overwrites the one before, so that memory is asked for once; with `out`, [N, K], all stay.
    """
    buffer = out
    for where, block in chunks(queries, len(keys)):
        if buffer is None:
            buffer = queries.new_empty((len(block), len(keys)))
        taken = buffer[: len(block)] if out is None else out[where]
        yield where, product(block, keys.T, taken)


def product(rows: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
    """Their product, into `out`. Where rows are `aligned`, and on a CPU, each is the same to the last bit whatever the
    other rows are. [n, m], [m, k] -> [n, k]."""
    few, column = len(rows) < LEAST_ROWS, matrix.shape[1] == 1
    if not few and not column:
        return torch.matmul(rows, matrix, out=out)
    if few:
        rows = pad(rows, (0, 0, 0, LEAST_ROWS - len(rows)))
    if column:
        matrix = pad(matrix, (0, 1))
    return out.copy_((rows @ matrix)[: len(out), : out.shape[1]])
