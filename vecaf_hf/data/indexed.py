"""Samples that keep their place in the pool on the way to the model."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import torch
from torch.utils.data import Dataset

from vecaf_hf.seeding import seed_of, seeded

# Keys of a batch that the model does not see: positions in the pool, the samples that could not be loaded, and what is
# wrong with the others.
POOL_INDEX = "vecaf_pool_index"
UNLOADABLE = "vecaf_unloadable"
UNFIT = "vecaf_unfit"

# Raises a ValueError if a batch cannot be trained on.
Check = Callable[[Mapping[str, Any]], None]


class Draw(NamedTuple):
    """A sample to load: its position in the pool, and which pass over which selection asks for it."""

    position: int
    stream: int = 0
    turn: int = 0


class Unloadable(NamedTuple):
    """In place of a sample that could not be loaded: why, and the traceback, as text to cross processes."""

    reason: str
    trace: str


# Kinds of work on a batch, so that each draws from a seed of its own.
LOADING, COLLATING = 0, 1


class IndexedDataset(Dataset):
    """A map-style dataset asked by `Draw`, answering (draw, item); the item is an `Unloadable` where it raises.

    A dataset that gives whole batches (`__getitems__`: `datasets.Dataset`, torch's `Subset`) is asked for them, as
    torch asks it for Trainer: its transform may pad images to the largest of the batch. Then whatever is random in
    loading is seeded by (seed, the batch's first draw); sample by sample, also where a transform has a true attribute
    `one_by_one`, by (seed, draw). So it is the same with any number of workers and after a resume, and another one in
    each pass.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> tuple[Draw, Any]:
        with seeded(seed_of(self.seed, draw.stream, draw.turn, draw.position)):
            try:
                return draw, self.dataset[draw.position]
            except Exception as error:
                # Of any type: a decoder's, the file system's, the user's transform's.
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                return draw, Unloadable(reason, traceback.format_exc())

    def __getitems__(self, draws: list[Draw]) -> list[tuple[Draw, Any]]:
        if not gives_batches(self.dataset):
            return [self[draw] for draw in draws]
        try:
            return self._together(draws)
        except Exception:
            # Which of them it was; the others are a batch again.
            alone = [self[draw] for draw in draws]
        loaded = [draw for draw, item in alone if not isinstance(item, Unloadable)]
        try:
            together = iter(self._together(loaded) if loaded else [])
        except Exception as error:
            raise _failed("the dataset", loaded, error) from error
        return [one if isinstance(one[1], Unloadable) else next(together) for one in alone]

    def _together(self, draws: list[Draw]) -> list[tuple[Draw, Any]]:
        with seeded(seed_of(self.seed, LOADING, *draws[0])):
            items = self.dataset.__getitems__([draw.position for draw in draws])
        if len(items) != len(draws):
            raise ValueError(
                f"{len(draws)} samples were asked for, and {len(items)} came: a transform must return a row for each "
                "sample it is given"
            )
        return list(zip(draws, items, strict=True))


def gives_batches(dataset: Any) -> bool:
    """Whether a dataset is to be asked for whole batches."""
    if isinstance(dataset, datasets.Dataset):
        transform = dataset.format["format_kwargs"].get("transform")
    else:
        transform = getattr(dataset, "transform", None)
    return callable(getattr(dataset, "__getitems__", None)) and not getattr(transform, "one_by_one", False)


def _failed(what: str, draws: Sequence[Draw], error: Exception) -> ValueError:
    some = ", ".join(str(draw.position) for draw in draws[:3])
    return ValueError(f"{what} failed on a batch of samples {some}, ...: {type(error).__name__}: {error}")


class IndexedCollator:
    """The user's collator over the samples that could be loaded, with their positions in the pool added to the batch.

    A batch of which nothing could be loaded has none of the collator's keys. Whatever is random in the collator
    (CutMix, MixUp) is seeded by (seed, the batch's first draw), as loading is.

    Args:
        collator: The user's.
        seed: Of what it draws.
        check: Raises a ValueError if a batch cannot be trained on; it goes with the batch, since a worker's own error
            would hide its message in a traceback.
    """

    def __init__(self, collator: Callable[[list[Any]], Any], seed: int = 0, check: Check | None = None) -> None:
        self.collator, self.seed, self.check = collator, seed, check

    def __call__(self, samples: Sequence[tuple[Draw, Any]]) -> dict[str, Any]:
        unloadable = {draw.position: item for draw, item in samples if isinstance(item, Unloadable)}
        for index in list(unloadable)[1:]:
            # One traceback a batch is enough: if the storage is gone, every sample has one.
            unloadable[index] = unloadable[index]._replace(trace="")
        draws = [draw for draw, item in samples if not isinstance(item, Unloadable)]
        items = [item for _, item in samples if not isinstance(item, Unloadable)]
        try:
            with seeded(seed_of(self.seed, COLLATING, *samples[0][0])):
                batch = self.collator(items) if items else {}
        except Exception as error:
            raise _failed("data_collator", draws, error) from error
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"data_collator returned {type(batch).__name__}; return a dict of the model's arguments, "
                'for example {"pixel_values": ..., "labels": ...}'
            )
        indices = torch.tensor([draw.position for draw in draws], dtype=torch.long)
        indexed = {**batch, POOL_INDEX: indices}
        unfit = self._unfit(indexed) if items else None
        return indexed | ({UNLOADABLE: unloadable} if unloadable else {}) | ({UNFIT: unfit} if unfit else {})

    def _unfit(self, batch: Mapping[str, Any]) -> str | None:
        """What is wrong with a batch."""
        try:
            if self.check is not None:
                self.check(batch)
        except ValueError as error:
            return str(error)
        return None
