"""Processes that share the work of a selection.

Each runs the strategy on the same candidates with the same seed, does its share of the heavy work, and gets that of the
others; all come to the same selection, the one that a single process makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
# Turns in which rows are brought to those that work on them.
TURNS = 8
# Rows that a process hands over at once where it hands over all.
BLOCK_ROWS = 2**16


class Processes(Protocol):
    """All of them, as one of them sees it. Each must call the same methods in the same order.

    Attributes:
        world: How many there are.
        rank: Which of them this is, from 0 on.
    """

    world: int
    rank: int

    def gather(self, values: Tensor) -> Tensor:
        """The rows of all, in the order of their ranks; any may have none. [n, ...] -> [N, ...]."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all, of values of the same shape."""

    def exchange(self, value: T) -> list[T]:
        """The small values of all, by rank."""

    def deal(self, parts: list[Tensor]) -> list[Tensor]:
        """Hand each process the part at its rank; what each one has for this process, by rank. [n, ...] each, of any n:
        the columns are alike."""


class Alone:
    """The only process."""

    world, rank = 1, 0

    def gather(self, values: Tensor) -> Tensor:
        return values

    def sum(self, values: Tensor) -> Tensor:
        return values

    def exchange(self, value: T) -> list[T]:
        return [value]

    def deal(self, parts: list[Tensor]) -> list[Tensor]:
        return parts


ALONE = Alone()


def even_bounds(size: int, world: int) -> tuple[int, ...]:
    """Where each process's share of so many rows begins, and the last one's ends. world + 1 numbers."""
    return tuple(size * rank // world for rank in range(world + 1))


def share_of(size: int, processes: Processes) -> slice:
    """Of so many rows, those of this process, which follow those of the ranks before it."""
    bounds = even_bounds(size, processes.world)
    return slice(bounds[processes.rank], bounds[processes.rank + 1])


@dataclass(frozen=True)
class Spread:
    """Rows of which each process holds a block.

    Args:
        own: Of this process. [n, d].
        bounds: Where each process's rows begin among all, and N, where the last one's end.
        processes: Who shares them.
        added: How many of the d columns are zeros that were added.
    """

    own: Tensor
    bounds: tuple[int, ...]
    processes: Processes = ALONE
    added: int = 0

    def __post_init__(self) -> None:
        due = self.share.stop - self.share.start
        if len(self.bounds) != self.processes.world + 1 or len(self.own) != due:
            raise ValueError(f"process {self.processes.rank} holds {len(self.own)} rows, and {due} are its share")

    @classmethod
    def of(cls, rows: Tensor | Spread) -> Spread:
        """Rows that are all here, or are spread already."""
        return rows if isinstance(rows, Spread) else cls(rows, (0, len(rows)))

    @classmethod
    def evenly(cls, rows: Tensor, processes: Processes) -> Spread:
        """Rows that are in all processes, of which each looks at a share."""
        return cls(rows[share_of(len(rows), processes)], even_bounds(len(rows), processes.world), processes)

    @property
    def size(self) -> int:
        """N."""
        return self.bounds[-1]

    @property
    def share(self) -> slice:
        """Where the own ones are among all."""
        return slice(self.bounds[self.processes.rank], self.bounds[self.processes.rank + 1])

    def counts_of(self, rows: Tensor) -> list[int]:
        """How many of these rows, rising, each process holds. LongTensor [k] -> world numbers."""
        bounds = torch.tensor(self.bounds, device=rows.device)
        return torch.searchsorted(rows, bounds).diff().tolist()

    def take(self, rows: Tensor) -> Spread:
        """These rows, rising, each where it is. LongTensor [k]."""
        counts = torch.tensor([0, *self.counts_of(rows)])
        return replace(self, own=self.own[self.own_of(rows)], bounds=tuple(counts.cumsum(0).tolist()))

    def in_first(self) -> Tensor:
        """All rows in the first process, none in the others, a block after the other: what travels at once is small."""
        parts: list[list[Tensor]] = [[] for _ in range(self.processes.world)]
        for start in range(0, max(later - earlier for earlier, later in pairwise(self.bounds)), BLOCK_ROWS):
            nothing = [self.own[:0]] * (self.processes.world - 1)
            for rank, block in enumerate(self.processes.deal([self.own[start : start + BLOCK_ROWS], *nothing])):
                parts[rank].append(block)
        return torch.cat([self.own[:0], *(block for of_one in parts for block in of_one)])

    def to(self, device: torch.device | str) -> Spread:
        return replace(self, own=self.own.to(device))

    def flops_with(self, keys: int, rows: int | None = None) -> float:
        """Of a product of so many rows, all if None, with so many keys."""
        return 2.0 * (self.size if rows is None else rows) * keys * (self.own.shape[1] - self.added)

    def own_of(self, rows: Tensor) -> Tensor:
        """Which of its own rows are among these, LongTensor [k] -> [m], from 0 to n - 1."""
        return rows if self.processes.world == 1 else rows[self._has(rows)] - self.share.start

    def at(self, rows: Tensor) -> Tensor:
        """These rows, in every process. LongTensor [k] -> [k, d]."""
        if self.processes.world == 1:
            return self.own[rows]
        found = self.own.new_zeros((len(rows), self.own.shape[1]))
        found[self._has(rows)] = self.own[self.own_of(rows)]
        return self.processes.sum(found)

    def whole(self, values: Tensor) -> Tensor:
        """What each process found for its own rows. [n, ...] -> [N, ...]."""
        return self.processes.gather(values)

    def _has(self, rows: Tensor) -> Tensor:
        return (rows >= self.share.start) & (rows < self.share.stop)


def brought(
    rows: Spread, cells: list[Tensor], owners: list[int | None], work: list[float]
) -> Iterator[tuple[int, Tensor]]:
    """The rows of each cell that this process owns, from wherever they are.

    In turns, so that only a part of them lies here beside what is held anyway.

    Args:
        cells: LongTensor [n] each, rising.
        owners: Of each; a cell without one stays where it is.
        work: That each cell takes; one that takes none is left out. Turns are cut by it: no owner waits long.

    Yields:
        Number of the cell, and its rows. [n, d].
    """
    world, rank = rows.processes.world, rows.processes.rank
    for turn in _turns(owners, work, world):
        of_owner = [[number for number in turn if owners[number] == owner] for owner in range(world)]
        handed = [torch.cat([cells[0][:0], *(cells[number] for number in numbers)]) for numbers in of_owner]
        got = rows.processes.deal([rows.own[rows.own_of(some)] for some in handed])
        counts = [rows.counts_of(cells[number]) for number in of_owner[rank]]
        parts = [part.split([of_cell[source] for of_cell in counts]) for source, part in enumerate(got)]
        for place, number in enumerate(of_owner[rank]):
            yield number, torch.cat([part[place] for part in parts])


def _turns(owners: list[int | None], work: list[float], world: int) -> list[list[int]]:
    """Numbers of the pieces that have owners, each owner's cut into TURNS parts of about as much work."""
    turns: list[list[int]] = [[] for _ in range(TURNS)]
    totals = [sum(work[number] for number, of in enumerate(owners) if of == owner) for owner in range(world)]
    done = [0.0] * world
    for number, owner in enumerate(owners):
        if owner is not None and work[number]:
            turns[min(TURNS - 1, int(TURNS * done[owner] / (totals[owner] or 1)))].append(number)
            done[owner] += work[number]
    return [turn for turn in turns if turn]


def dealt(work: list[float], world: int) -> list[int | None]:
    """Who does each piece of work: the largest first, each to whom has the least so far; None for all together, where a
    piece is more than half of what each has to do."""
    loads, total = [0.0] * world, sum(work)
    owners: list[int | None] = [None] * len(work)
    for piece in sorted(range(len(work)), key=lambda piece: -work[piece]):
        if 2 * world * work[piece] <= total:
            owners[piece] = owner = min(range(world), key=loads.__getitem__)
            loads[owner] += work[piece]
    return owners
