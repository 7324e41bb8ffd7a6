"""Odd ways to stop and to start again, each of which once lost something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerCallback

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]

STEPS = {"save_strategy": "steps", "save_steps": 2}


def assert_same_weights(one: VeCAFTrainer, other: VeCAFTrainer) -> None:
    others = other.model.state_dict()
    for name, values in one.model.state_dict().items():
        assert torch.equal(values, others[name]), name


class Preempted(TrainerCallback):
    """Stops the run in good order, with a checkpoint, as a callback does that is told of the machine's end."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            control.should_save = control.should_training_stop = True


def test_a_run_that_was_stopped_in_good_order_goes_on(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole = make_trainer(make_vit(), output_dir=str(tmp_path / "whole"), **STEPS)
    whole.train()
    make_trainer(make_vit(), [Preempted()], **STEPS).train()
    resumed = make_trainer(make_vit(1), **STEPS)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8
    assert_same_weights(whole, resumed)


def test_two_patient_callbacks_keep_their_own_counts(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def trainer(folder: str, seed: int) -> VeCAFTrainer:
        patient = [EarlyStoppingCallback(9, 10.0), EarlyStoppingCallback(6, 10.0)]
        evaluated = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
        options = {"metric_for_best_model": "loss", "save_steps": 1, "max_steps": 12, "save_strategy": "steps"}
        return make_trainer(make_vit(seed), patient, output_dir=str(tmp_path / folder), **evaluated, **options)

    whole = trainer("whole", 0)
    whole.train()
    assert whole.state.global_step == 7
    resumed = trainer("whole", 1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.state.global_step == 7
    ended = trainer("whole", 1)
    ended.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-7"))
    assert ended.state.global_step == 7


def test_patience_is_fresh_in_each_run(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    evaluated = {"eval_strategy": "steps", "eval_steps": 6, "load_best_model_at_end": True}
    options = {"metric_for_best_model": "loss", "save_strategy": "steps", "save_steps": 6, "max_steps": 12}
    patient = EarlyStoppingCallback(1, 10.0)
    trainer = make_trainer(make_vit(), [patient, Preempted()], **evaluated, **options)
    # As the run before this one left it; this one saves before its first evaluation.
    patient.early_stopping_patience_counter = 1
    trainer.train()
    assert trainer.loop.history is not None
    assert (trainer.loop.history.step, trainer.loop.history.stopped) == (3, False)


class SaveAtLoopsEnd(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = state.global_step == 4


def test_a_save_asked_for_by_a_late_callback_comes_after_the_evaluation(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    options = {"save_strategy": "steps", "save_steps": 100, "eval_strategy": "epoch"}
    trainer = make_trainer(make_vit(), **options)
    trainer.add_callback(SaveAtLoopsEnd())
    trainer.train()
    resumed = make_trainer(make_vit(1), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    evaluated = [[log["step"] for log in one.state.log_history if "eval_loss" in log] for one in (trainer, resumed)]
    assert evaluated == [[4, 8], [4, 8]]


def test_a_refused_resume_leaves_nothing_behind(make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer(make_vit(), **STEPS).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    fresh = make_trainer(make_vit(), output_dir=str(tmp_path / "fresh"), num_loops=4)
    fresh.train()
    refused = make_trainer(make_vit(), output_dir=str(tmp_path / "other"), num_loops=4)
    with pytest.raises(ValueError, match="num_loops was 2 and is 4 now"):
        refused.train(resume_from_checkpoint=checkpoint)
    refused.model.load_state_dict(make_vit().state_dict())
    refused.train()
    assert_same_weights(fresh, refused)
    assert refused.meter.work["train"].samples == fresh.meter.work["train"].samples == 64


def test_an_earlier_run_in_the_same_folder_is_not_resumed(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    class Killed(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    make_trainer(make_vit(), **STEPS).train()
    faster = {**STEPS, "learning_rate": 1e-2}
    whole = make_trainer(make_vit(), output_dir=str(tmp_path / "whole"), **faster)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(make_vit(), [Killed()], **faster).train()
    resumed = make_trainer(make_vit(1), **faster)
    resumed.train(resume_from_checkpoint=True)
    assert_same_weights(whole, resumed)


def test_what_learns_beside_the_model_begins_anew_in_each_run(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def trainer(seed: int = 0) -> VeCAFTrainer:
        return make_trainer(make_vit(seed), strategy="learn_loss", **STEPS)

    twice = trainer()
    twice.train()
    groups = len(twice.optimizer.param_groups)
    twice.train()
    assert len(twice.optimizer.param_groups) == groups
    resumed = trainer(1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert_same_weights(twice, resumed)


@pytest.mark.parametrize("best", [False, True])
def test_a_head_that_was_replaced_after_loading(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, best: bool
) -> None:
    """ViT's encoder has other names in its file, the new head the same ones."""

    def model(seed: int) -> PreTrainedModel:
        made = make_vit(seed)
        made.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(16, 10))
        return made

    options = {**STEPS, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": best}
    whole = make_trainer(model(0), output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    resumed = make_trainer(model(1), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert_same_weights(whole, resumed)


def test_the_history_keeps_its_order(make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """Of a selection of the same samples as the one before, in another order."""

    def shuffled(candidates: Any, budget: int, options: Any, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(candidates), generator=generator)

    options = {**STEPS, "strategy": shuffled, "selection_budget": 120}
    whole, resumed = make_trainer(make_vit(), **options), make_trainer(make_vit(1), **options)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    for mine, yours in zip(whole.selection_history, resumed.selection_history, strict=True):
        assert torch.equal(mine.indices, yours.indices)
    assert not torch.equal(whole.selection_history[0].indices, whole.selection_history[1].indices)


class Counting:
    """A strategy whose state is a number."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, candidates: Any, budget: int, options: Any, generator: torch.Generator) -> Tensor:
        self.calls += 1
        return candidates.indices[self.calls : self.calls + budget]

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.calls = int(state["calls"])


def test_states_and_options_that_are_plain_or_numpys_numbers(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def trainer(seed: int) -> VeCAFTrainer:
        return make_trainer(make_vit(seed), strategy=Counting(), temperature=np.float32(0.07), **STEPS)

    whole, resumed = trainer(0), trainer(1)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.args.strategy.calls == 2
    assert_same_weights(whole, resumed)


def test_a_strategy_whose_state_cannot_be_kept(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    class Wordy(Counting):
        def state_dict(self) -> dict[str, Any]:
            return {"calls": "seven"}

    trainer = make_trainer(make_vit(), strategy=Wordy(), **STEPS)
    with pytest.raises(TypeError, match="str"):
        trainer.train()
    assert trainer.state.global_step == 0
