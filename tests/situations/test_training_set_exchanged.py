"""`trainer.train_dataset` is set, exchanged, or grows after construction: a run begins with what is there then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
RUN = {"strategy": "balanced", "max_steps": 4, "num_loops": 2, "selection_budget": 12}


def selections(trainer: VeCAFTrainer) -> list[list[int]]:
    trainer.train()
    return [selection.indices.tolist() for selection in trainer.selection_history]


@pytest.mark.parametrize("given_first", [True, False])
def test_another_set_is_trained_on_as_if_it_had_been_given_first(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, given_first: bool
) -> None:
    first, second = train.select(range(40)), train.select(range(40, 100))
    trainer = make_trainer(make_vit(), pool=first, **RUN)
    if given_first:
        trainer.train()
    trainer.train_dataset = second
    trainer.model.load_state_dict(make_vit().state_dict())
    fresh = make_trainer(make_vit(), pool=second, **RUN)
    assert selections(trainer) == selections(fresh)
    assert max(map(max, selections(trainer))) >= 40
    for name, values in fresh.model.state_dict().items():
        assert values.shape == trainer.model.state_dict()[name].shape


def test_a_set_that_grows_is_seen_as_a_whole(make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset) -> None:
    class Growing(torch.utils.data.Dataset):
        size = 20

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, index: int) -> Any:
            return train[index]

    pool = Growing()
    trainer = make_trainer(make_vit(), pool=pool, **{**RUN, "strategy": "full"})
    trainer.train()
    assert len(trainer.selection) == 20
    pool.size = 50
    trainer.train()
    assert len(trainer.selection) == 50


def test_a_scoring_set_of_the_old_samples_is_refused(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    first, second = train.select(range(40)), train.select(range(40, 80))
    trainer = make_trainer(make_vit(), pool=first, trainer={"scoring_dataset": train.select(range(40))}, **RUN)
    trainer.train_dataset = second
    with pytest.raises(ValueError, match=r"set trainer\.scoring_dataset too"):
        trainer.train()
    trainer.scoring_dataset = None
    trainer.train()


def test_a_look_at_another_set_shows_its_own_samples(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    trainer = make_trainer(make_vit(), pool=train, **RUN)
    old = trainer.get_train_dataloader()
    trainer.train()
    trainer.train_dataset = second = train.select(range(40, 60))
    seen = [image for batch in trainer.get_train_dataloader() for image in batch["pixel_values"]]
    trainer.train()
    selected = [second[index]["pixel_values"] for index in trainer.selection_history[0].indices.tolist()]
    assert all(any(torch.equal(image, other) for other in selected) for image in seen)
    with pytest.raises(RuntimeError, match=r"of another train_dataset: call get_train_dataloader\(\) again"):
        next(iter(old))
