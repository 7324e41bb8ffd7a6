"""What is set after construction acts as if it had been given then, what is taken away acts no more, and a copy of the
model is a plain one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from resumed_runs import assert_same_run
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, TrainerCallback

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


def double(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return 2 * cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


def weights(trainer: VeCAFTrainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: values.clone() for name, values in trainer.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(values, second[name]) for name, values in first.items())


@pytest.mark.parametrize("strategy", ["balanced", "ods", "infobatch"])
def test_compute_loss_func(make_vit: MakeModel, make_trainer: MakeTrainer, strategy: str) -> None:
    given = make_trainer(make_vit(), trainer={"compute_loss_func": double}, strategy=strategy, optim="sgd")
    later = make_trainer(make_vit(), strategy=strategy, optim="sgd")
    later.compute_loss_func = double
    assert same(weights(given), weights(later))
    later.compute_loss_func = None
    later.model.load_state_dict(make_vit().state_dict())
    assert same(weights(later), weights(make_trainer(make_vit(), strategy=strategy, optim="sgd")))


def test_a_callback_for_cea(make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder) -> None:
    given = make_trainer(make_vit(), [CEACallback(text_encoder)])
    later, plain = make_trainer(make_vit()), make_trainer(make_vit())
    cea = CEACallback(text_encoder)
    later.add_callback(cea)
    expected = weights(given)
    assert same(expected, weights(later)) and not same(expected, weights(plain))
    later.remove_callback(cea)
    # As Trainer does, a second training goes on with the moments of the first.
    later.optimizer = later.lr_scheduler = None
    later.model.load_state_dict(make_vit().state_dict())
    assert same(weights(later), weights(make_trainer(make_vit())))
    assert not later.model.classifier._forward_pre_hooks


class Removes(TrainerCallback):
    """Whatever is taken away in the middle of a run."""

    def __init__(self, trainer: VeCAFTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            self.trainer.remove_callback(CEACallback)


def test_cea_that_is_removed_while_a_run_goes_on(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> None:
    trainer = make_trainer(make_vit(), [CEACallback(text_encoder)])
    trainer.add_callback(Removes(trainer))
    trainer.train()
    assert trainer.cea is None and not trainer.model.classifier._forward_pre_hooks


def test_a_run_whose_cea_was_removed_is_resumed_to_the_same(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder, tmp_path: Path
) -> None:
    def run(name: str, resume: str | None = None) -> VeCAFTrainer:
        saving = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "epoch"}
        options = {"output_dir": str(tmp_path / name), **saving}
        trainer = make_trainer(make_vit(), [CEACallback(text_encoder)], **options)
        trainer.add_callback(Removes(trainer))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    for step in (2, 4, 6):
        resumed = run("resumed", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert resumed.cea is None and not resumed.model.classifier._forward_pre_hooks
        assert_same_run(whole, resumed)


class Averages(TrainerCallback):
    """An EMA that copies the model while the run goes on, hooks and all, and uses the copy in training mode."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.copy = copy.deepcopy(model).train()
        pickle.dumps(model)
        assert torch.equal(self.copy.classifier(torch.ones(3, 16)), model.classifier.eval()(torch.ones(3, 16)))


@pytest.mark.parametrize("strategy", ["ods", "learn_loss"])
def test_a_copy_of_the_model_is_plain(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder, strategy: str
) -> None:
    averages, cea = Averages(), CEACallback(text_encoder)
    trainer = make_trainer(make_vit(), [cea, averages], strategy=strategy)
    trainer.train()
    assert trainer.cea is cea
    assert averages.copy is not trainer.model
