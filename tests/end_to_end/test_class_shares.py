"""Class shares over a whole run: more classes than a selection has samples, and shares between the pool's and equal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


def labels_of(pool: Dataset) -> torch.Tensor:
    return torch.tensor(pool.with_format(None)["label"])


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "balanced"},
        {"strategy": "trimmed"},
        {"strategy": "ods"},
        {"strategy": "ods", "rescore": "sampled", "scoring_fraction": 0.5},
    ],
    ids=str,
)
def test_every_class_is_trained_in_its_turn(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
) -> None:
    """Fewer samples than the ten classes, in four loops."""
    labels, orders = labels_of(train), []
    for seed in (0, 1):
        caplog.clear()
        trainer = make_trainer(
            make_vit(), selection_budget=5, num_loops=4, max_steps=4, eval_strategy="no", data_seed=seed, **options
        )
        with caplog.at_level(logging.WARNING):
            trainer.train()
        assert caplog.text.count("a selection has 5 samples, fewer than the pool's 10 classes") == 1
        found = [labels[selection.indices].sort().values.tolist() for selection in trainer.selection_history]
        assert sorted(found[0] + found[1]) == sorted(found[2] + found[3]) == list(range(10))
        orders.append(found)
    assert orders[0] != orders[1]


def test_enough_samples_and_selections_without_classes_are_not_told_of(
    make_vit: MakeModel, make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        make_trainer(make_vit(), strategy="balanced", selection_budget=10, eval_strategy="no").train()
        make_trainer(make_vit(), strategy="random", selection_budget=5, eval_strategy="no").train()
    assert "classes" not in caplog.text


def test_what_is_foreseen_is_what_is_selected(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        make_vit(), strategy="balanced", selection_budget=13, num_loops=4, max_steps=4, eval_strategy="no"
    )
    trainer.train()
    later = torch.cat([selection.indices for selection in trainer.selection_history[1:]]).unique()
    assert torch.equal(trainer.loop.selector.foreseen(4), later)


@pytest.mark.parametrize("rescore", ["full", "sampled"])
def test_a_part_of_the_pool_is_selected_from_by_the_pools_own_sizes(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, rescore: str
) -> None:
    """Classes of 64, 16 and 4, of which so many are scored as will be selected: by the square root, 4 : 2 : 1."""
    labels = labels_of(train)
    rows = [(labels == label).nonzero().squeeze(1)[:4].repeat(count) for label, count in ((0, 16), (1, 4), (2, 1))]
    pool = train.select(torch.cat(rows).tolist())
    part = {"scoring_fraction": 0.25} if rescore == "sampled" else {}
    trainer = make_trainer(
        make_vit(),
        pool=pool,
        strategy="ods",
        class_balance=0.5,
        selection_budget=14,
        rescore=rescore,
        eval_strategy="no",
        **part,
    )
    trainer.train()
    for selection in trainer.selection_history:
        assert torch.bincount(labels[torch.cat(rows)[selection.indices]]).tolist() == [8, 4, 2]


def test_shares_follow_the_samples_that_can_be_loaded(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    """Classes of 32, 16 and 4, the first of which half cannot be: by the square root, 4 : 4 : 2."""
    labels, clean = labels_of(train), train.format["format_kwargs"]["transform"]
    rows = [(labels == label).nonzero().squeeze(1)[:4].repeat(count) for label, count in ((0, 8), (1, 4), (2, 1))]
    pool = train.select(torch.cat(rows).tolist()).add_column("number", list(range(52)))

    def load(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if min(batch["number"]) < 16:
            raise OSError("truncated")
        return clean(batch)

    trainer = make_trainer(
        make_vit(),
        pool=pool.with_transform(load),
        strategy="ods",
        class_balance=0.5,
        selection_budget=10,
        on_bad_sample="skip",
        eval_strategy="no",
    )
    trainer.train()
    for selection in trainer.selection_history:
        assert torch.bincount(labels[torch.cat(rows)[selection.indices]]).tolist() == [4, 4, 2]
