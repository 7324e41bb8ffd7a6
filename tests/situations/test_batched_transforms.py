"""A transform is given the batch, as torch's loaders give it for Trainer: it may pad to the batch's largest image."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import Subset
from transformers import Trainer

from vecaf_hf import VeCAFTrainer
from vecaf_hf.data.indexed import POOL_INDEX, UNLOADABLE, Draw, IndexedCollator, IndexedDataset, Unloadable

POOL = 24


class OfAnyLength(nn.Module):
    """Classifies the mean of a padded row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classifier = nn.Linear(1, 3)

    def forward(self, values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.classifier(values.mean(dim=1, keepdim=True))
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


@pytest.fixture
def ragged() -> tuple[Dataset, list[int]]:
    """Rows of several lengths, padded by a transform to the longest of the batch; and how many it was given at once."""
    rows = {"values": [[float(row)] * (1 + row % 5) for row in range(POOL)], "labels": [row % 3 for row in range(POOL)]}
    given: list[int] = []

    def padded(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        given.append(len(batch["labels"]))
        longest = max(map(len, batch["values"]))
        values = [pad(torch.tensor(row), (0, longest - len(row))) for row in batch["values"]]
        return {"values": values, "labels": batch["labels"]}

    return Dataset.from_dict(rows).with_transform(padded), given


@pytest.mark.parametrize("strategy", ["full", "ods"])
def test_a_transform_sees_the_batches_that_plain_trainer_gives_it(
    make_trainer: Callable[..., VeCAFTrainer], ragged: tuple[Dataset, list[int]], strategy: str
) -> None:
    pool, given = ragged
    options = {"strategy": strategy, "num_loops": 1, "max_steps": 3, "selection_budget": POOL, "on_bad_sample": "raise"}
    trainer = make_trainer(OfAnyLength(), pool=pool, trainer={"data_collator": None, "eval_dataset": None}, **options)
    trainer.train()
    ours = given[-3:]
    given.clear()
    Trainer(model=OfAnyLength(), args=trainer.args, train_dataset=pool).train()
    assert ours == given == [8, 8, 8]


def test_the_others_are_a_batch_again_where_one_fails() -> None:
    def fails(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        if 2 in batch["row"]:
            raise OSError("truncated")
        return {"row": batch["row"], "of": [len(batch["row"])] * len(batch["row"])}

    dataset = IndexedDataset(Dataset.from_dict({"row": list(range(5))}).with_transform(fails), 0)
    batch = IndexedCollator(lambda items: {"of": [item["of"] for item in items]})(
        dataset.__getitems__([Draw(row) for row in (4, 2, 1)])
    )
    assert batch["of"] == [2, 2] and batch[POOL_INDEX].tolist() == [4, 1]
    assert batch[UNLOADABLE][2].reason == "OSError: truncated"


def test_what_fails_as_a_batch_alone_fails_as_with_trainer() -> None:
    def stacked(batch: dict[str, list[Any]]) -> dict[str, Tensor]:
        return {"values": torch.stack([torch.ones(length) for length in batch["length"]])}

    dataset = IndexedDataset(Dataset.from_dict({"length": [1, 2]}).with_transform(stacked), 0)
    with pytest.raises(ValueError, match=r"the dataset failed on a batch of samples 0, 1, .*stack expects"):
        dataset.__getitems__([Draw(0), Draw(1)])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_transform_that_returns_other_rows_is_told(rows: int) -> None:
    dataset = IndexedDataset(Dataset.from_dict({"a": [1, 2]}).with_transform(lambda batch: {"b": [0] * rows}), 0)
    with pytest.raises(ValueError, match=f"2 samples were asked for, and {rows} came"):
        dataset.__getitems__([Draw(0), Draw(1)])


class Batched:
    """A dataset of batches alone, with something random."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("one by one")

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [(index, len(indices), random.random()) for index in indices]


def test_datasets_of_batches_repeat_themselves_and_differ_between_passes() -> None:
    dataset = IndexedDataset(Subset(Batched(), range(9)), 0)

    def load(turn: int) -> list[Any]:
        return [item for _, item in dataset.__getitems__([Draw(row, 0, turn) for row in (3, 5)])]

    assert load(0) == load(0) != load(1)
    assert [item[:2] for item in load(0)] == [(3, 2), (5, 2)]


def test_a_transform_can_ask_for_a_seed_of_each_samples_own() -> None:
    def alone(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {"drawn": [(len(batch["row"]), random.random()) for _ in batch["row"]]}

    alone.one_by_one = True  # type: ignore[attr-defined]
    dataset = IndexedDataset(Dataset.from_dict({"row": [0, 1, 2]}).with_transform(alone), 0)
    first, second = ([item for _, item in dataset.__getitems__([Draw(row), Draw(2)])] for row in (0, 1))
    assert first[1] == second[1] and first[0] != second[0]
    assert not isinstance(first[0], Unloadable) and first[0]["drawn"][0] == 1
