"""Groups that a column marks: the oracle draws by them, and nothing else sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from vecaf_hf import VeCAFTrainer
from vecaf_hf.selection import Candidates

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]

CONDITIONS = ["", "fog", "snow"]


@pytest.fixture
def conditioned(train: Dataset) -> Dataset:
    """A tenth of the pool under each of two conditions, that a column marks."""
    transform = train.format["format_kwargs"]["transform"]
    column = [CONDITIONS[max(0, index % 10 - 7)] for index in range(len(train))]
    return train.with_format(None).add_column("condition", column).with_transform(transform)


def test_the_oracle_draws_as_many_of_each_group_of_each_class_anew_in_each_loop(
    make_vit: MakeModel, make_trainer: MakeTrainer, conditioned: Dataset
) -> None:
    trainer = make_trainer(
        make_vit(), pool=conditioned, strategy="group_balanced", group_column="condition", selection_budget=45
    )
    trainer.train()
    rows = conditioned.with_format(None)
    cells = Counter(zip(rows["label"], rows["condition"], strict=True))
    for selection in trainer.selection_history:
        counts = Counter((rows["label"][index], rows["condition"][index]) for index in selection.indices.tolist())
        for label in set(rows["label"]):
            mine = {cell: count for cell, count in cells.items() if cell[0] == label}
            assert sum(counts[cell] for cell in mine) in (4, 5)
            largest = max(counts[cell] for cell in mine)
            assert all(counts[cell] in (largest, largest - 1, cells[cell]) for cell in mine)
    first, second = (set(selection.indices.tolist()) for selection in trainer.selection_history)
    assert first != second
    assert trainer.meter.work["score"].samples == 0


# Of each kind: by nothing, by the model's scores, by training's losses, after a first training, by a learner.
SOME = ["random", "ods", "rho_loss", "loss_balanced", "jtt", "learn_loss"]


@pytest.mark.parametrize("strategy", SOME)
def test_no_other_strategy_sees_the_groups(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    conditioned: Dataset,
    watch: Callable[..., None],
    strategy: str,
) -> None:
    """Not even where the pool knows them."""
    seen: list[Candidates] = []
    watch(strategy, seen.append)
    trainer = make_trainer(make_vit(), pool=conditioned, strategy=strategy, selection_budget=6, max_steps=2)
    assert trainer.pool.groups is None
    trainer.pool.groups = torch.zeros(len(conditioned), dtype=torch.long)
    trainer.train()
    assert seen and all(candidates.groups is None for candidates in seen)


def test_a_function_does_not_see_them_either(
    make_vit: MakeModel, make_trainer: MakeTrainer, conditioned: Dataset
) -> None:
    seen: list[Candidates] = []

    def select(candidates: Candidates, budget: int, *args: Any) -> torch.Tensor:
        seen.append(candidates)
        return candidates.indices[:budget]

    trainer = make_trainer(make_vit(), pool=conditioned, strategy=select, max_steps=2)
    trainer.pool.groups = torch.zeros(len(conditioned), dtype=torch.long)
    trainer.train()
    assert len(seen) == 2 and all(candidates.groups is None for candidates in seen)


def test_a_column_that_is_not_there_is_refused_at_construction(
    make_vit: MakeModel, make_trainer: MakeTrainer, conditioned: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"group_column is 'wether', and the dataset's columns are .*, condition"):
        make_trainer(make_vit(), pool=conditioned, strategy="group_balanced", group_column="wether")
    with pytest.raises(ValueError, match="group_column is 'condition', and the dataset is a list without columns"):
        make_trainer(make_vit(), pool=[*conditioned], strategy="group_balanced", group_column="condition")
