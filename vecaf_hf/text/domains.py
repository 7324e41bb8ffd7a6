"""Several domain prompts: which of them each sample of the pool goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vecaf_hf.seeding import seed_of


@dataclass(frozen=True)
class Domains:
    """The domain of each sample in each loop.

    Prompts are dealt evenly and at random among the samples, and in each loop a sample goes on to the next prompt: it
    meets all of them in as many loops as there are prompts.

    Args:
        prompts: D of them.
        turns: Row of each sample's prompt, in a first loop and those after it until the deal comes round again.
            LongTensor [P, N], P at most D.
    """

    prompts: Sequence[str]
    turns: Tensor

    @classmethod
    def deal(cls, prompts: Sequence[str], size: int, loops: int, seed: int) -> Domains:
        """Deal the prompts out in a pool of N samples, for a run of so many loops."""
        order = torch.zeros(size, dtype=torch.long)
        if len(prompts) > 1:
            order = torch.randperm(size, generator=torch.Generator().manual_seed(seed_of(seed)))
        loops = min(loops, len(prompts))
        return cls(prompts, torch.stack([(order + loop) % len(prompts) for loop in range(loops)]))

    def in_loop(self, loop: int) -> Tensor:
        """LongTensor [N]."""
        return self.turns[loop % len(self.turns)]

    def of(self, indices: Tensor) -> Domains:
        """The same for some of the samples. LongTensor [n]."""
        return replace(self, turns=self.turns[:, indices])
