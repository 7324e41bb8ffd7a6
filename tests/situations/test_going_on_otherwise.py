"""A run goes on with more epochs, or batches cut otherwise, where its selections stay exact, and after SIGTERM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
RUN: dict[str, Any] = {
    "max_steps": -1,
    "num_loops": None,
    "per_device_train_batch_size": 8,
    "lr_scheduler_type": "constant",
    "save_strategy": "steps",
    "save_steps": 2,
}


def assert_same(one: VeCAFTrainer, other: VeCAFTrainer) -> None:
    assert one.state.global_step == other.state.global_step
    assert [s.indices.tolist() for s in one.selection_history] == [s.indices.tolist() for s in other.selection_history]
    for name, values in one.model.state_dict().items():
        assert torch.equal(values, other.model.state_dict()[name]), name


@pytest.mark.parametrize("strategy", ["balanced", "ods"])
@pytest.mark.parametrize("step", [4, 10])
def test_more_epochs_are_those_of_a_longer_run(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, tmp_path: Path, strategy: str, step: int
) -> None:
    options = {**RUN, "strategy": strategy, "pool": train.select(range(40))}
    make_trainer(make_vit(), num_train_epochs=2, **options).train()
    longer = make_trainer(make_vit(), num_train_epochs=4, **options)
    longer.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    assert [record.loop for record in longer.loop_records] == [0, 1, 2, 3]
    whole = make_trainer(make_vit(), num_train_epochs=4, output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    assert_same(longer, whole)
    # A checkpoint of the longer run is one of the longer run.
    again = make_trainer(make_vit(), num_train_epochs=4, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-16"))
    assert_same(again, whole)


def test_a_strategy_that_goes_by_the_runs_length_is_refused(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, tmp_path: Path
) -> None:
    options = {**RUN, "strategy": "trimmed", "pool": train.select(range(40))}
    make_trainer(make_vit(), num_train_epochs=2, **options).train()
    longer = make_trainer(make_vit(), num_train_epochs=4, **options)
    with pytest.raises(ValueError, match="total_updates was 10 and is 20 now"):
        longer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))


def test_batches_cut_otherwise_train_on_the_same_samples(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, tmp_path: Path
) -> None:
    options = {**RUN, "num_train_epochs": 2, "pool": train.select(range(40))}
    whole = make_trainer(make_vit(), **options)
    whole.train()
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    other = make_trainer(make_vit(), **{**options, **halves})
    other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert other.state.global_step == whole.state.global_step
    assert [one.indices.tolist() for one in other.selection_history] == [
        one.indices.tolist() for one in whole.selection_history
    ]
    another = make_trainer(make_vit(), **{**options, "per_device_train_batch_size": 4})
    with pytest.raises(ValueError, match="updates_per_loop was 5 and is 10 now"):
        another.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))


# --- enable_jit_checkpoint ---


class Asked(TrainerCallback):
    """As if SIGTERM had come at this point of this step."""

    def __init__(self, trainer: VeCAFTrainer, event: str, step: int) -> None:
        def ask(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for callback in trainer.callback_handler.callbacks:
                if state.global_step == step and hasattr(callback, "jit_manager"):
                    callback.jit_manager._enable_checkpoint()

        setattr(self, event, ask)


@pytest.mark.parametrize(("event", "step", "saved"), [("on_step_begin", 2, 3), ("on_optimizer_step", 4, 5)])
def test_what_sigterm_saves_goes_on_as_if_it_had_not_come(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, tmp_path: Path, event: str, step: int, saved: int
) -> None:
    options = {
        **RUN,
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "num_train_epochs": 2,
        "pool": train.select(range(40)),
        "enable_jit_checkpoint": True,
    }
    whole = make_trainer(make_vit(hidden_dropout_prob=0.1), output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    stopped = make_trainer(make_vit(hidden_dropout_prob=0.1), **options)
    stopped.add_callback(Asked(stopped, event, step))
    stopped.train()
    assert stopped.state.global_step == saved
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == [f"checkpoint-{saved}"]
    resumed = make_trainer(make_vit(hidden_dropout_prob=0.1), **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same(resumed, whole)
    kept = ("loss", "eval_loss", "step", "epoch", "vecaf/loop", "vecaf/tflops_train")
    lines = [
        [{name: log[name] for name in kept if name in log} for log in one.state.log_history[:-1]]
        for one in (resumed, whole)
    ]
    assert lines[0] == lines[1]
