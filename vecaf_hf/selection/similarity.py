"""Cosine similarities between a pool and centroids, in chunks: no N x K matrix is ever held."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vecaf_hf.selection.processes import Processes, Spread
from vecaf_hf.selection.products import ALIGNED_COLUMNS, SMALLER, chunks, products
from vecaf_hf.selection.rounded import GROUP, Estimates, estimated_products, pays


def unit_rows(embeddings: Tensor, rows: Tensor | None = None, aligned: bool = False) -> Tensor:
    """These rows (all, if None) in float32 at unit length, whatever their scale: one copy, also of a memory-mapped or
    half-precision pool. [N, d], LongTensor [n] -> [n, d]; `aligned`, d is a multiple of 16, columns of 0 are added."""
    count, columns = len(embeddings) if rows is None else len(rows), embeddings.shape[1]
    added = -columns % ALIGNED_COLUMNS if aligned else 0
    copied = torch.empty((count, columns + added), dtype=torch.float32, device=embeddings.device)
    copied[:, columns:] = 0
    for where, block in chunks(copied, SMALLER * columns):
        taken = embeddings[where] if rows is None else embeddings[rows[where]]
        # Half precision would round the quotient. Float64 keeps its type: float32 does not hold the largest of it.
        taken = taken if taken.dtype == torch.float64 else taken.float()
        largest = taken.abs().amax(dim=1, keepdim=True)
        scaled = (taken / largest.clamp(min=torch.finfo(taken.dtype).tiny)).float()
        length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
        torch.div(scaled, length.clamp(min=torch.finfo(length.dtype).tiny), out=block[:, :columns])
    return copied


def nearest(queries: Tensor, keys: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Largest inner product of each query with any key, and that key's row. [N, d], [K, d] -> [N], [N].

    One exact pass: N x K products. `count` is the number of all processes' queries, where this one has its own alone.
    """
    values = queries.new_empty(len(queries))
    rows = torch.empty(len(queries), dtype=torch.long, device=queries.device)
    if pays(len(queries) if count is None else count, queries, keys):
        for where, estimates in estimated_products(queries, keys):
            values[where], rows[where] = estimates.nearest()
        return values, rows
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
    if pays(spread.size, spread.own, centroids):
        for where, estimates in estimated_products(spread.own, centroids):
            similarity[where], _ = estimates.nearest()
            top.add_estimated(estimates, spread.share.start + where.start)
    else:
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
        row, column = self._entering(block)
        self._wait(block[row, column], row + first_row, column)

    def add_estimated(self, block: Estimates, first_row: int) -> None:
        """Rows that follow those added before. Most products are decided by their estimates."""
        row, column = self._entering(block.of_keys, block.slack)
        self._wait(block.exact(row, column), row + first_row, column)

    def _entering(self, block: Tensor, slack: float = 0.0) -> tuple[Tensor, Tensor]:
        """Row and column of values that may be among the largest, where each is off by no more than the slack."""
        groups = len(block) // GROUP
        if groups == 0:
            row, column = (block > self.values[:, -1] - slack).nonzero(as_tuple=True)
            return row, column
        grouped = block[: groups * GROUP].unflatten(0, (GROUP, -1))
        highest = grouped.amax(dim=0)  # [n / GROUP, K]
        # Above the lowest; of the first rows, no less than what so many groups have.
        bound = torch.nextafter(self.values[:, -1] - slack, self.values.new_full((), torch.inf))
        if groups >= self.count and bool(self.values[:, -1].isinf().any()):
            bound = torch.maximum(bound, highest.topk(self.count, dim=0).values[-1] - 2 * slack)
        group, column = (highest >= bound).nonzero(as_tuple=True)
        place, found = (grouped[:, group, column] >= bound[column]).nonzero(as_tuple=True)
        row, column = place * groups + group[found], column[found]
        if groups * GROUP == len(block):
            return row, column
        last_row, last_column = self._entering(block[groups * GROUP :], slack)
        return torch.cat([row, last_row + groups * GROUP]), torch.cat([column, last_column])

    def _wait(self, values: Tensor, rows: Tensor, columns: Tensor) -> None:
        self._waiting.append((values, rows, columns))
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
