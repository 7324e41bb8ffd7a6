"""Samples that keep their place in the pool on the way to the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from vecaf_hf.seeding import seed_of, seeded

# The batch's key for positions in the pool. VeCAFTrainer takes it out before the model sees the batch.
POOL_INDEX = "vecaf_pool_index"


class Draw(NamedTuple):
    """A sample to load: its position in the pool, and which pass over which selection asks for it."""

    position: int
    stream: int = 0
    turn: int = 0


class IndexedDataset(Dataset):
    """A map-style dataset asked by `Draw`, answering (index, item).

    Whatever is random in loading the item (image augmentation) is seeded by (seed, draw): it is the same with
    any number of workers or processes and after a resume, and another one in each pass.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> tuple[int, Any]:
        with seeded(seed_of(self.seed, draw.stream, draw.turn, draw.position)):
            return draw.position, self.dataset[draw.position]


class IndexedCollator:
    """The user's collator, with the samples' positions in the pool added to the batch."""

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        indices, items = zip(*samples, strict=True)
        batch = self.collator(list(items))
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"data_collator returned {type(batch).__name__}; return a dict of the model's arguments, "
                'for example {"pixel_values": ..., "labels": ...}'
            )
        return {**batch, POOL_INDEX: torch.tensor(indices)}
