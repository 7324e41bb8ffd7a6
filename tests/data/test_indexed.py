"""Samples know their place, and their augmentation follows from it alone."""

import itertools
import random

import numpy as np
import pytest
import torch
from every_case import every_case
from transformers import BatchFeature

from vecaf_hf.data.indexed import POOL_INDEX, UNLOADABLE, Draw, IndexedCollator, IndexedDataset, Unloadable
from vecaf_hf.seeding import seed_of, seeded


class Augmented:
    """Items that draw from all three global generators."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def generators() -> tuple:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def items(draws, seed=0) -> dict:
    dataset = IndexedDataset(Augmented(), seed)
    return {draw: dataset[draw] for draw in draws}


def test_an_item_comes_with_its_position():
    dataset = IndexedDataset(Augmented(), 0)
    draw, item = dataset[Draw(7)]
    assert draw.position == item[0] == 7 and len(dataset) == 9


def test_augmentation_is_the_same_in_any_order_and_however_often():
    draws = [Draw(position, stream, turn) for position in range(4) for stream in range(2) for turn in range(3)]
    assert items(draws) == items(reversed(draws)) == items(draws[::2] + draws[1::2] + draws)


@every_case("other", [Draw(3, 1, 2), Draw(4, 1, 1), Draw(3, 0, 1), Draw(3, 2, 0)])
def test_augmentation_differs_by_position_stream_and_turn(other):
    found = items([Draw(3, 1, 1), other])
    first, second = (item[1:] for _, item in found.values())
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_augmentation_differs_by_seed():
    assert items([Draw(3)], seed=1) != items([Draw(3)], seed=2)


def test_global_generators_are_left_as_they_were():
    before = generators()
    items([Draw(3), Draw(4)])
    assert generators() == before
    with pytest.raises(IndexError), seeded(1):
        random.random(), np.random.rand(), torch.rand(3)
        raise IndexError
    assert generators() == before


def test_a_seed_follows_from_every_part_in_order():
    found = [seed_of(*parts) for parts in itertools.product(range(4), repeat=3)]
    assert len(set(found)) == len(found)
    assert all(0 <= seed < 2**32 for seed in found)
    assert seed_of(1, 2) == seed_of(1, 2)


@every_case("wrap", [dict, BatchFeature])
def test_the_collators_batch_gets_the_positions(wrap):
    def collate(samples):
        assert samples == ["a", "b"]
        return wrap({"pixel_values": torch.ones(2)})

    batch = IndexedCollator(collate)([(Draw(7), "a"), (Draw(3), "b")])
    assert batch.keys() == {"pixel_values", POOL_INDEX}
    assert batch[POOL_INDEX].tolist() == [7, 3] and batch[POOL_INDEX].dtype == torch.long


@every_case("batch", [(torch.ones(2), torch.zeros(2)), [1], torch.ones(2)])
def test_a_collator_that_returns_no_dict(batch):
    with pytest.raises(TypeError, match=f"data_collator returned {type(batch).__name__}; return a dict"):
        IndexedCollator(lambda samples: batch)([(Draw(0), "a")])


class Holed:
    """Every third item cannot be loaded."""

    def __getitem__(self, index):
        if index % 3 == 0:
            raise OSError(f"image file is\n  truncated ({index} bytes)")
        return torch.tensor(index)


def test_what_cannot_be_loaded_is_told_apart_in_the_batch():
    dataset = IndexedDataset(Holed(), 0)
    batch = IndexedCollator(lambda items: {"values": torch.stack(items)})([dataset[Draw(index)] for index in (5, 3, 4)])
    assert batch["values"].tolist() == batch[POOL_INDEX].tolist() == [5, 4]
    assert batch[UNLOADABLE].keys() == {3}
    bad = batch[UNLOADABLE][3]
    assert bad.reason == "OSError: image file is truncated (3 bytes)"
    assert "in __getitem__" in bad.trace


def test_a_batch_of_which_nothing_can_be_loaded():
    dataset = IndexedDataset(Holed(), 0)
    batch = IndexedCollator(lambda items: 1 / 0)([dataset[Draw(0)], dataset[Draw(3)]])
    assert batch.keys() == {POOL_INDEX, UNLOADABLE}
    assert batch[POOL_INDEX].tolist() == [] and batch[POOL_INDEX].dtype == torch.long
    assert all(isinstance(bad, Unloadable) for bad in batch[UNLOADABLE].values())
