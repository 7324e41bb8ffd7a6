"""Processes that share the work of a selection.

Each runs the strategy on the same candidates with the same seed, does its share of the heavy work, and gets that of the
others; all come to the same selection, the one that a single process makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


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


class Alone:
    """The only process."""

    world, rank = 1, 0

    def gather(self, values: Tensor) -> Tensor:
        return values

    def sum(self, values: Tensor) -> Tensor:
        return values

    def exchange(self, value: T) -> list[T]:
        return [value]


ALONE = Alone()


def share_of(size: int, processes: Processes) -> slice:
    """Of so many rows, those of this process, which follow those of the ranks before it."""
    return slice(size * processes.rank // processes.world, size * (processes.rank + 1) // processes.world)


@dataclass(frozen=True)
class Spread:
    """Rows of which each process holds its share.

    Args:
        own: Of this process. [n, d].
        size: Of all. N.
        processes: Who shares them.
        added: How many of the d columns are zeros that were added.
    """

    own: Tensor
    size: int
    processes: Processes = ALONE
    added: int = 0

    @classmethod
    def of(cls, rows: Tensor | Spread) -> Spread:
        """Rows that are all here, or are spread already."""
        return rows if isinstance(rows, Spread) else cls(rows, len(rows))

    @property
    def share(self) -> slice:
        """Where the own ones are among all."""
        return share_of(self.size, self.processes)

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
