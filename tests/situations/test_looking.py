"""What is trained on can be looked at before, in and after training, with the user's keys alone, and nothing begins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from pixels import collate
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedModel, TrainerCallback

from vecaf_hf import VeCAFArguments, VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
RUN = {"max_steps": 4, "num_loops": 2, "selection_budget": 12}


def pixels(batches: Any) -> set[bytes]:
    return {image.numpy().tobytes() for batch in batches for image in batch["pixel_values"]}


def images(pool: Dataset, indices: torch.Tensor) -> set[bytes]:
    return {pool[index]["pixel_values"].numpy().tobytes() for index in indices.tolist()}


@pytest.mark.parametrize("strategy", ["balanced", "ods"])
def test_before_the_training_the_loader_shows_its_first_loop(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, strategy: str
) -> None:
    trainer, fresh = (make_trainer(make_vit(), strategy=strategy, **RUN) for _ in range(2))
    loader = trainer.get_train_dataloader()
    assert len(loader) == 2 and trainer.selection_history == []
    seen = list(loader)
    assert all(batch.keys() == {"pixel_values", "labels"} for batch in seen)
    assert trainer.model(**seen[0]).loss.isfinite()
    trainer.train()
    assert pixels(seen) <= images(train, trainer.selection_history[0].indices)
    fresh.train()
    assert [one.indices.tolist() for one in trainer.selection_history] == [
        one.indices.tolist() for one in fresh.selection_history
    ]
    for name, values in fresh.model.state_dict().items():
        assert torch.equal(values, trainer.model.state_dict()[name]), name


def test_a_loader_that_is_iterated_again_scores_once(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(make_vit(), strategy="ods", **RUN)
    loader = trainer.get_train_dataloader()
    passes: list[Any] = []
    trainer.model.register_forward_hook(lambda *call: passes.append(call))
    first = pixels(loader)
    count = len(passes)
    assert pixels(loader) == first and len(passes) == count > 0


def test_several_processes_are_told_that_one_alone_would_wait(
    make_vit: MakeModel, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_vit(), **RUN)
    loader = trainer.get_train_dataloader()
    monkeypatch.setattr(VeCAFArguments, "world_size", 2)
    with pytest.raises(RuntimeError, match="nothing is selected yet, and several processes select together"):
        next(iter(loader))


def test_collators_take_samples(make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset) -> None:
    trainer = make_trainer(make_vit(), **RUN)
    samples = [train[index] for index in range(3)]
    for collator in (trainer.data_collator, trainer.get_train_dataloader().collate_fn):
        batch = collator(samples)
        assert batch.keys() == {"pixel_values", "labels"} and len(batch["labels"]) == 3


def test_in_the_training_callbacks_look_at_the_current_loop(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    seen: list[set[bytes]] = []

    class Looks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
            batch = next(iter(train_dataloader))
            assert batch.keys() == {"pixel_values", "labels"}
            seen.append(pixels([batch, next(iter(trainer.get_train_dataloader()))]))

    trainer, plain = make_trainer(make_vit(), callbacks=[Looks()], **RUN), make_trainer(make_vit(), **RUN)
    trainer.train()
    plain.train()
    for step, found in enumerate(seen):
        assert found <= images(train, trainer.selection_history[step // 2].indices)
    for name, values in plain.model.state_dict().items():
        assert torch.equal(values, trainer.model.state_dict()[name]), name


def test_after_the_training_what_it_selected_is_still_there(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(make_vit(), **RUN)
    trainer.train()
    next(iter(trainer.get_train_dataloader()))
    assert len(trainer.selection_history) == len(trainer.loop_records) == 2


# --- Whose sampling it is ---


def test_a_sampler_of_the_users_own_is_told_who_decides(
    make_vit: MakeModel, make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, train: Dataset
) -> None:
    class Weighted(VeCAFTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train)

    args = make_trainer(make_vit(), **RUN).args
    caplog.clear()
    with caplog.at_level(logging.WARNING, "vecaf_hf"):
        trainer = Weighted(make_vit(), args, collate, train)
    assert caplog.text.count("Weighted._get_train_sampler is not called for the training: the selection decides") == 1
    assert trainer.train().global_step == 4


@pytest.mark.parametrize("calls_ours", [True, False])
def test_a_loader_of_the_users_own_is_refused_in_a_sentence(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, calls_ours: bool
) -> None:
    class Own(VeCAFTrainer):
        def get_train_dataloader(self) -> DataLoader:
            if calls_ours:
                super().get_train_dataloader()
            return DataLoader(train, batch_size=8, collate_fn=collate)  # type: ignore[arg-type]

    trainer = Own(make_vit(), make_trainer(make_vit(), **RUN).args, collate, train)
    with pytest.raises(ValueError, match="a loader of its own, and here the selection"):
        trainer.train()


def test_a_loader_that_is_changed_and_handed_on_trains(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    class Counts(VeCAFTrainer):
        asked = 0

        def get_train_dataloader(self) -> DataLoader:
            self.asked += 1
            return super().get_train_dataloader()

    trainer = Counts(make_vit(), make_trainer(make_vit(), **RUN).args, collate, train)
    assert trainer.train().global_step == 4 and trainer.asked == 1
