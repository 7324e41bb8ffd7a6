"""Processes that share a selection, as threads of one: what each sends the others is what real ones would."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Thread:
    """One of them."""

    def __init__(self, rank: int, told: list[Any], barrier: threading.Barrier) -> None:
        self.world, self.rank, self.told, self.barrier = len(told), rank, told, barrier
        self.sent = 0

    def gather(self, values: Tensor) -> Tensor:
        self.sent += values.numel() * values.element_size()
        return torch.cat(self.exchange(values))

    def sum(self, values: Tensor) -> Tensor:
        self.sent += values.numel() * values.element_size()
        # From the last to the first: the order must not matter.
        return torch.stack(self.exchange(values)[::-1]).sum(dim=0)

    def deal(self, parts: list[Tensor]) -> list[Tensor]:
        self.sent += sum(part.numel() * part.element_size() for part in parts)
        return [of_one[self.rank] for of_one in self.exchange(parts)]

    def exchange(self, value: T) -> list[T]:
        self.told[self.rank] = value
        self.barrier.wait()
        every = list(self.told)
        self.barrier.wait()
        return every


def in_threads(world: int, work: Callable[[Thread], T]) -> list[T]:
    """What each of them returns."""
    told: list[Any] = [None] * world
    # Much longer than a test takes: an error in one of them ends the others.
    barrier = threading.Barrier(world, timeout=60)

    def run(rank: int) -> T:
        torch.set_num_threads(1)
        try:
            return work(Thread(rank, told, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(run, range(world)))
