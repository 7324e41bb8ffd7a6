"""The samples of one loop, in training order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler

from vecaf_hf.data.indexed import Draw
from vecaf_hf.seeding import seed_of


@dataclass(frozen=True)
class Stream:
    """Endless passes over a selection, reshuffled each pass.

    Args:
        indices: The selection. LongTensor [K].
        start: Loop in which it was selected; with the run's seed it fixes every pass's order.
        offset: Samples of the stream that earlier loops have used.
    """

    indices: Tensor
    start: int
    offset: int = 0

    def after(self, used: int, indices: Tensor, loop: int) -> Stream:
        """The stream of `loop`: this one goes on where it stopped if the selection is still the same set of
        samples (so `full` runs through whole epochs), else a new one begins."""
        if torch.equal(self.indices.sort().values, indices.sort().values):
            return Stream(self.indices, self.start, self.offset + used)
        return Stream(indices, loop)

    def samples(self, count: int, seed: int) -> Tensor:
        """The distinct samples among the next `count`, rising. LongTensor [n]."""
        # Whatever pass the stream is in, the one after it has them all.
        count = min(count, 2 * len(self.indices))
        return torch.cat([samples for _, samples in self._passes(count, seed)]).unique()

    def draws(self, count: int, seed: int) -> Iterator[Draw]:
        """The next `count` samples."""
        for turn, samples in self._passes(count, seed):
            for index in samples.tolist():
                yield Draw(index, self.start, turn)

    def _passes(self, count: int, seed: int) -> Iterator[tuple[int, Tensor]]:
        turn, skip = divmod(self.offset, len(self.indices))
        while count > 0:
            generator = torch.Generator().manual_seed(seed_of(seed, self.start, turn))
            order = torch.randperm(len(self.indices), generator=generator)[skip : skip + count]
            yield turn, self.indices[order]
            count -= len(order)
            turn, skip = turn + 1, 0


class LoopSampler(Sampler[Draw]):
    """Yields exactly one loop's samples each time it is iterated.

    Trainer asks its loader's length once and takes each pass over it for an epoch: with this sampler a loop is
    an epoch. The stream is set in the main process at each loop boundary, before the loader is iterated, so
    that persistent workers and processes see the new selection as indices alone.
    """

    def __init__(self, samples_per_loop: int, seed: int) -> None:
        self.samples_per_loop, self.seed = samples_per_loop, seed
        self.stream: Stream | None = None

    def __len__(self) -> int:
        return self.samples_per_loop

    def __iter__(self) -> Iterator[Draw]:
        if self.stream is None:
            raise RuntimeError("no selection yet: VeCAFTrainer selects when a loop begins, inside train()")
        return self.stream.draws(self.samples_per_loop, self.seed)
