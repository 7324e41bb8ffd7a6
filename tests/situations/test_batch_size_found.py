"""`auto_find_batch_size` finds the batch size before anything is selected, and the run is that of the size found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, Trainer

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
RUN: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 2, "num_loops": None, "per_device_train_batch_size": 8}
FITS = 4


def short_of_memory(model: PreTrainedModel, from_call: int = 0) -> PreTrainedModel:
    """In training, batches of more than FITS samples fail, from the given forward pass on."""
    calls = [0]

    def fail(module: Any, args: Any, kwargs: Any) -> None:
        if model.training:
            calls[0] += 1
            if len(kwargs["pixel_values"]) > FITS and calls[0] > from_call:
                raise RuntimeError("CUDA out of memory.")

    model.register_forward_pre_hook(fail, with_kwargs=True)
    return model


@pytest.mark.parametrize("strategy", ["balanced", "ods"])
def test_as_if_that_size_had_been_asked_for(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, watch: Any, strategy: str
) -> None:
    made: list[int] = []
    watch(strategy, lambda candidates: made.append(len(candidates)))
    pool = train.select(range(40))
    trainer = make_trainer(short_of_memory(make_vit()), pool=pool, strategy=strategy, auto_find_batch_size=True, **RUN)
    trainer.train()
    selected = len(made)
    assert len(trainer.selection_history) == 2
    assert trainer.state.train_batch_size == FITS and trainer.state.global_step == 2 * 10
    asked = make_trainer(make_vit(), pool=pool, strategy=strategy, **RUN | {"per_device_train_batch_size": FITS})
    asked.train()
    # No attempt has selected anything.
    assert len(made) == 2 * selected
    for name, values in asked.model.state_dict().items():
        assert torch.equal(values, trainer.model.state_dict()[name]), name
    plain = Trainer(short_of_memory(make_vit()), trainer.args, trainer.data_collator, pool)
    assert plain.train().global_step == trainer.state.global_step


def test_what_fails_later_begins_again_as_for_trainer(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    model = short_of_memory(make_vit(), from_call=4)
    trainer = make_trainer(model, pool=train.select(range(40)), auto_find_batch_size=True, **RUN)
    trainer.train()
    assert trainer.state.global_step == 2 * 10 and len(trainer.loop_records) == 2


def test_a_resumed_run_has_the_size_that_was_found(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, tmp_path: Path
) -> None:
    options = {**RUN, "auto_find_batch_size": True, "save_strategy": "steps", "save_steps": 7}
    weights = []
    for start in (None, str(tmp_path / "run" / "checkpoint-7")):
        trainer = make_trainer(short_of_memory(make_vit()), pool=train.select(range(40)), **options)
        trainer.train(resume_from_checkpoint=start)
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
