"""With a schedule-free optimizer, which trains with other weights than it evaluates, samples are scored and inspected,
and the model is saved and pushed, by those of evaluation, whether or not an evaluation came before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, ViTForImageClassification

from vecaf_hf import VeCAFTrainer
from vecaf_hf.loop.controller import LoopController
from vecaf_hf.scoring.scorer import Scorer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


class Averaging(torch.optim.SGD):
    """Evaluates with the mean of what it has trained with. Like `schedulefree.ScheduleFreeWrapper` it saves no mode."""

    is_training = False

    @torch.no_grad()
    def exchange(self, to_training: bool) -> None:
        if self.is_training is not to_training:
            for parameter, state in self.state.items():
                kept = state["other"].clone()
                state["other"].copy_(parameter)
                parameter.copy_(kept)
        self.is_training = to_training

    def train(self) -> None:
        self.exchange(True)

    def eval(self) -> None:
        self.exchange(False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert self.is_training
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                steps = state["steps"] = state.get("steps", 0) + 1
                mean = state.setdefault("other", torch.zeros_like(parameter))
                mean.add_(parameter - mean, alpha=1 / steps)


def averaging(model: PreTrainedModel) -> dict[str, Any]:
    optimizer = Averaging(model.parameters(), lr=0.3)
    return {"optimizers": (optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0))}


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def saved(folder: Path | str) -> dict[str, Tensor]:
    return weights(ViTForImageClassification.from_pretrained(folder))


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, values in first.items():
        assert torch.equal(values, second[name]), name


def test_scores_do_not_depend_on_an_evaluation_before(
    make_vit: MakeModel, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[bool] = []
    score = Scorer.score_at
    optimizer: Any = None

    def watched(self: Scorer, *args: Any, **kwargs: Any) -> Any:
        modes.append(optimizer.is_training)
        return score(self, *args, **kwargs)

    monkeypatch.setattr(Scorer, "score_at", watched)
    chosen = []
    for evaluates in ("no", "epoch"):
        model = make_vit()
        given = averaging(model)
        optimizer = given["optimizers"][0]
        trainer = make_trainer(model, trainer=given, eval_strategy=evaluates, max_steps=12, num_loops=3)
        trainer.train()
        chosen.append([selection.indices.tolist() for selection in trainer.selection_history])
        assert trainer.inspect().selected != tuple(chosen[-1][0])
    assert chosen[0] == chosen[1] and chosen[0][0] != chosen[0][2]
    assert modes and not any(modes)


def test_the_mode_is_back_after_an_error_in_scoring(
    make_vit: MakeModel, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = make_vit()
    given = averaging(model)
    trainer = make_trainer(model, trainer=given)
    select = LoopController._select

    def failing(self: LoopController, loop: int, *args: Any) -> None:
        if loop:
            raise InterruptedError
        select(self, loop, *args)

    monkeypatch.setattr(LoopController, "_select", failing)
    with pytest.raises(InterruptedError):
        trainer.train()
    assert given["optimizers"][0].is_training
    # What is saved then is fit for use all the same.
    trained = weights(model)
    trainer.save_model()
    assert_same(weights(model), trained)
    means = {parameter: state["other"] for parameter, state in given["optimizers"][0].state.items()}
    assert_same({name: means[parameter] for name, parameter in model.named_parameters()}, saved(tmp_path / "run"))


def test_the_last_save_a_push_and_the_model_itself_have_the_weights_of_evaluation(
    make_vit: MakeModel, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("vecaf_hf.hub.trainer.push_run", lambda *args, **kwargs: None)
    model = make_vit()
    trainer = make_trainer(model, trainer=averaging(model), save_strategy="steps", save_steps=8)
    trainer.train()
    final = weights(model)
    found = [final, saved(tmp_path / "run" / "checkpoint-8")]
    for save in (trainer.save_model, trainer.push_to_hub):
        save()
        found.append(saved(tmp_path / "run"))
    trainer.evaluate()
    for tensors in found:
        assert_same(tensors, weights(model))


def test_a_resumed_run_ends_as_the_whole_one(make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 9, "num_loops": 3}
    whole = make_vit()
    trainer = make_trainer(whole, trainer=averaging(whole), **options)
    trainer.train()
    for step in (3, 6):
        model = make_vit(1)
        again = make_trainer(model, trainer=averaging(model), **options)
        again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert_same(weights(model), weights(whole))
    # By the trainer that has trained already, its optimizer in either mode.
    trainer._optimizer_in_training = trainer.optimizer
    trainer.optimizer.train()
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert_same(weights(whole), weights(again.model))


class Stops(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 4


def test_the_best_model_stays_what_it_was(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    """Plain Trainer (transformers 5.23) loads it into an optimizer in training mode, whose `eval()` then spoils it."""
    options = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    model = make_vit()
    trainer = make_trainer(model, [Stops()], trainer=averaging(model), load_best_model_at_end=True, **options)
    trainer.train()
    best = saved(str(trainer.state.best_model_checkpoint))
    trainer.evaluate()
    assert_same(best, weights(model))


@pytest.mark.parametrize("name", ["schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"])
def test_the_library_itself(make_vit: MakeModel, make_trainer: MakeTrainer, name: str, tmp_path: Path) -> None:
    pytest.importorskip("schedulefree")
    options = {"optim": name, "lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(make_vit(), learning_rate=1e-2, **options)
    whole.train()
    assert not whole.optimizer.param_groups[0]["train_mode"]
    final = weights(whole.model)
    Trainer.evaluate(whole)
    assert_same(final, weights(whole.model))
    resumed = make_trainer(make_vit(1), learning_rate=1e-2, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert_same(weights(whole.model), weights(resumed.model))


def test_a_head_is_corrected_in_the_weights_that_are_saved(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    biases, shift = [], torch.zeros(10)
    for corrects in (False, True):
        model = make_vit()
        trainer = make_trainer(
            model, trainer=averaging(model), eval_strategy="no", max_steps=4, correct_class_shares=corrects
        )
        trainer.train()
        assert trainer.loop is not None
        pool, trained = trainer.loop.class_shares(10, 4)
        shift = (pool.log() - trained.log()).float()
        biases.append(weights(model)["classifier.bias"])
    assert shift.abs().max() > 0.1
    torch.testing.assert_close(biases[1] - biases[0], shift, rtol=0, atol=1e-5)
