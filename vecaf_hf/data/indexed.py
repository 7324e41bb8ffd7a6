"""Samples that keep their place in the pool on the way to the model."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from vecaf_hf.seeding import seed_of, seeded

# Keys of a batch that the model does not see: positions in the pool, and the samples that could not be loaded.
POOL_INDEX = "vecaf_pool_index"
UNLOADABLE = "vecaf_unloadable"


class Draw(NamedTuple):
    """A sample to load: its position in the pool, and which pass over which selection asks for it."""

    position: int
    stream: int = 0
    turn: int = 0


class Unloadable(NamedTuple):
    """In place of a sample that could not be loaded: why, and the traceback, as text to cross processes."""

    reason: str
    trace: str


class IndexedDataset(Dataset):
    """A map-style dataset asked by `Draw`, answering (index, item); the item is an `Unloadable` where it raises.

    Whatever is random in loading the item (image augmentation) is seeded by (seed, draw): it is the same with
    any number of workers or processes and after a resume, and another one in each pass.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> tuple[int, Any]:
        with seeded(seed_of(self.seed, draw.stream, draw.turn, draw.position)):
            try:
                return draw.position, self.dataset[draw.position]
            except Exception as error:
                # Of any type: a decoder's, the file system's, the user's transform's.
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                return draw.position, Unloadable(reason, traceback.format_exc())


class IndexedCollator:
    """The user's collator over the samples that could be loaded, with their positions in the pool added to the batch.

    A batch of which nothing could be loaded has none of the collator's keys.
    """

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        unloadable = {index: item for index, item in samples if isinstance(item, Unloadable)}
        for index in list(unloadable)[1:]:
            # One traceback a batch is enough: if the storage is gone, every sample has one.
            unloadable[index] = unloadable[index]._replace(trace="")
        loaded = [(index, item) for index, item in samples if index not in unloadable]
        try:
            batch = self.collator([item for _, item in loaded]) if loaded else {}
        except Exception as error:
            some = ", ".join(str(index) for index, _ in loaded[:3])
            raise ValueError(
                f"data_collator failed on a batch of samples {some}, ...: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"data_collator returned {type(batch).__name__}; return a dict of the model's arguments, "
                'for example {"pixel_values": ..., "labels": ...}'
            )
        indices = torch.tensor([index for index, _ in loaded], dtype=torch.long)
        return {**batch, POOL_INDEX: indices} | ({UNLOADABLE: unloadable} if unloadable else {})
