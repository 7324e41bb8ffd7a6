"""Cosine similarities between a pool and centroids, in chunks: no N x K matrix is ever held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from vecaf_hf.selection.processes import Processes, Spread

# Similarities held at once: 16 MiB of floats. On a CPU, a larger block has left the cache before it is read.
CHUNK_ELEMENTS = 2**22
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


def unit_rows(embeddings: Tensor, rows: Tensor | None = None, aligned: bool = False) -> Tensor:
    """These rows (all, if None) in float32 at unit length, whatever their scale: one copy, also of a memory-mapped or
    half-precision pool. [N, d], LongTensor [n] -> [n, d]; `aligned`, d is a multiple of 16, columns of 0 are added."""
    count, columns = len(embeddings) if rows is None else len(rows), embeddings.shape[1]
    added = -columns % ALIGNED_COLUMNS if aligned else 0
    copied = embeddings.new_zeros((count, columns + added), dtype=torch.float32)
    for where, block in chunks(copied, columns):
        taken = embeddings[where] if rows is None else embeddings[rows[where]]
        # Half precision would round the quotient. Float64 keeps its type: float32 does not hold the largest of it.
        taken = taken if taken.dtype == torch.float64 else taken.float()
        largest = taken.abs().amax(dim=1, keepdim=True)
        block[:, :columns].copy_(normalize((taken / largest.clamp(min=torch.finfo(taken.dtype).tiny)).float(), dim=-1))
    return copied


def nearest(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Largest inner product of each query with any key, and that key's row. [N, d], [K, d] -> [N], [N].

    One exact pass: N x K products.
    """
    values = queries.new_empty(len(queries))
    rows = torch.empty(len(queries), dtype=torch.long, device=queries.device)
    for where, similarities in products(queries, keys):
        torch.max(similarities, dim=1, out=(values[where], rows[where]))
    return values, rows


@dataclass(frozen=True)
class Survey:
    """A pool seen from K centroids, and they from it.

    Args:
        similarity: Of each sample to its nearest centroid. [N].
        top: Each centroid's nearest samples.
    """

    similarity: Tensor
    top: Top


def survey(embeddings: Tensor | Spread, centroids: Tensor, count: int) -> Survey:
    """Each sample's similarity to its nearest centroid, and `count` nearest samples of each centroid, in one exact
    pass."""
    spread = Spread.of(embeddings)
    similarity = spread.own.new_empty(len(spread.own))
    top = Top(centroids, count)
    for where, similarities in products(spread.own, centroids):
        torch.amax(similarities, dim=1, out=similarity[where])
        top.add(similarities, spread.share.start + where.start)
    top.merge_with(spread.processes)
    return Survey(spread.whole(similarity), top)


class Top:
    """The largest values of each column of a matrix that comes in blocks of rows; the earlier row among equal ones.

    A value waits when it is above the column's lowest so far, which few are after the first blocks, and what waits is
    merged when it is as much as what is kept: no block is sorted.

    Args:
        keys: One row per column of the matrix; gives type and device. [K, d].
        count: Values kept per column, m.

    Attributes:
        count: m.
        values: Falling; minus infinity where a column has fewer. [K, m].
        rows: Theirs; -1 where a column has fewer. LongTensor [K, m].
    """

    def __init__(self, keys: Tensor, count: int) -> None:
        self.count = count
        self.values = keys.new_full((len(keys), count), -torch.inf)
        self.rows = torch.full((len(keys), count), -1, device=keys.device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, block: Tensor, first_row: int) -> None:
        """Rows that follow those added before; minus infinity is never kept. [n, K]."""
        lowest = self.values[:, -1]
        # Few columns have anything to take in after the first blocks.
        columns = (block.amax(dim=0) > lowest).nonzero().squeeze(1)
        if len(columns) < len(lowest):
            block, lowest = block[:, columns], lowest[columns]
        enters = block > lowest
        if len(block) > self.count and bool(lowest.isinf().any()):
            enters &= block >= block.topk(self.count, dim=0).values[-1]
        row, column = enters.nonzero(as_tuple=True)
        self._waiting.append((block[row, column], row + first_row, columns[column]))
        if sum(len(values) for values, _, _ in self._waiting) >= self.values.numel():
            self.merge()

    def merge_with(self, processes: Processes) -> None:
        """Take in what waits, and what the other processes have, whose rows follow each other by rank."""
        self.merge()
        if processes.world == 1:
            return
        every = (processes.gather(one).unflatten(0, (processes.world, -1)) for one in (self.values, self.rows))
        values, rows = (one.transpose(0, 1).flatten(1) for one in every)  # [K, world * m]
        order = values.argsort(dim=1, descending=True, stable=True)[:, : self.count]
        self.values, self.rows = values.gather(1, order), rows.gather(1, order)

    def merge(self) -> None:
        """Take in what waits."""
        kept = self.rows >= 0
        column = kept.nonzero(as_tuple=True)[0]
        parts = [(self.values[kept], self.rows[kept], column), *self._waiting]
        values, rows, columns = (torch.cat(field) for field in zip(*parts, strict=True))
        self._waiting.clear()
        # Both sorts are stable: by column, then falling value, then rising row.
        order = values.argsort(descending=True, stable=True)
        order = order[columns[order].argsort(stable=True)]
        columns = columns[order]
        sizes = torch.bincount(columns, minlength=len(self.values))
        rank = torch.arange(len(columns), device=columns.device) - (sizes.cumsum(0) - sizes)[columns]
        stays = rank < self.count
        where = columns[stays], rank[stays]
        self.values[where], self.rows[where] = values[order][stays], rows[order][stays]
