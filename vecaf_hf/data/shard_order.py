"""Which shards a loop boundary reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vecaf_hf.seeding import seed_of


def shards_of_loop(sizes: Sequence[int], usable: Tensor, count: int, seed: int, loop: int) -> list[int]:
    """Shards with `count` samples in all, rising. Loops go through a random order of all shards, each from where the
    loop before has stopped, so that none comes again before all have come; then through another order.

    Args:
        sizes: Samples of each shard.
        usable: Those that can be had now: a shard of fewer counts as fewer. LongTensor [shards].
        count: At most the sum of these.
        seed: Of the orders.
        loop: 0-based.
    """
    order, chosen = _endless(len(sizes), seed), list[int]()
    for earlier in range(loop + 1):
        counts = usable.tolist() if earlier == loop else sizes
        chosen, total = [], 0
        while total < count and len(chosen) < len(sizes):
            shard = next(order)
            if shard not in chosen:
                chosen.append(shard)
                total += counts[shard]
    return sorted(chosen)


def _endless(shards: int, seed: int) -> Iterator[int]:
    cycle = 0
    while True:
        generator = torch.Generator().manual_seed(seed_of(seed, shards, cycle))
        yield from torch.randperm(shards, generator=generator).tolist()
        cycle += 1
