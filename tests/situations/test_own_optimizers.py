"""An optimizer of one's own, however it was made, and its schedule train what is learned beside the model too: a
learned alignment, or a strategy's learner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, SequentialLR
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


class Watches(TrainerCallback):
    """Counts the learned tensors, and those that have moved in the run."""

    trainer: VeCAFTrainer

    def learned(self) -> list[nn.Parameter]:
        return [parameter for each in self.trainer._beside_model for parameter in each.learned_parameters()]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.before = [parameter.detach().clone() for parameter in self.learned()]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.count = len(self.before)
        self.moved = sum(not torch.equal(*pair) for pair in zip(self.before, self.learned(), strict=True))


def two_groups(model: PreTrainedModel) -> AdamW:
    head = list(model.classifier.parameters())
    rest = [parameter for name, parameter in model.named_parameters() if not name.startswith("classifier")]
    return AdamW([{"params": rest, "lr": 1e-4}, {"params": head, "lr": 1e-2, "weight_decay": 0.0}])


def flat(optimizer: Any) -> LambdaLR:
    return LambdaLR(optimizer, [lambda step: 1.0] * len(optimizer.param_groups))


def given(model: PreTrainedModel) -> Any:
    optimizer = two_groups(model)
    return optimizer, flat(optimizer)


def one_cycle(model: PreTrainedModel) -> Any:
    optimizer = two_groups(model)
    return optimizer, OneCycleLR(optimizer, max_lr=[1e-3, 1e-2], total_steps=16)


def nested(model: PreTrainedModel) -> Any:
    optimizer = SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    return optimizer, SequentialLR(optimizer, [flat(optimizer), flat(optimizer)], milestones=[3])


def without_schedule(model: PreTrainedModel) -> Any:
    return two_groups(model), None


def made_early(trainer: VeCAFTrainer) -> None:
    trainer.create_optimizer()


def made_early_with_its_schedule(trainer: VeCAFTrainer) -> None:
    trainer.lr_scheduler = flat(trainer.create_optimizer())


def set_later(trainer: VeCAFTrainer) -> None:
    trainer.optimizer = two_groups(trainer.model)
    trainer.lr_scheduler = flat(trainer.optimizer)


def overridden(trainer: VeCAFTrainer) -> None:
    class Own(type(trainer)):  # type: ignore[misc]
        def create_optimizer(self, model: Any = None) -> Any:
            if self.optimizer is None:
                self.optimizer = two_groups(self.model)
            return self.optimizer

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = self.lr_scheduler or flat(self.optimizer)
            return self.lr_scheduler

    trainer.__class__ = Own


@pytest.mark.parametrize(
    "how",
    [given, one_cycle, nested, without_schedule, made_early, made_early_with_its_schedule, set_later, overridden],
)
@pytest.mark.parametrize("what", ["alignment", "learner"])
def test_what_is_learned_beside_the_model_moves(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder, what: str, how: Callable[[Any], Any]
) -> None:
    model, watches = make_vit(), Watches()
    callbacks: list[Any] = [watches]
    if what == "alignment":
        callbacks.append(CEACallback(text_encoder, alignment="learned"))
    pair = {"optimizers": how(model)} if how in (given, one_cycle, nested, without_schedule) else {}
    trainer = make_trainer(
        model, callbacks, strategy="learn_loss" if what == "learner" else "random", trainer=pair, max_steps=6
    )
    if not pair:
        how(trainer)
    watches.trainer, optimizer = trainer, trainer.optimizer
    for _ in range(2):
        trainer.train()
        # LearnLoss compares two predictions: its last bias has no gradient.
        assert watches.moved >= watches.count - (what == "learner") > 0
        # It is still the optimizer that was given, and holds nothing of an earlier run.
        assert optimizer is None or optimizer in (trainer.optimizer, trainer.optimizer.optimizer)
        held = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
        assert held == len(list(model.parameters())) + watches.count


def test_it_goes_where_it_learns_fast_and_is_regularised_as_due(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> None:
    model, cea = make_vit(), CEACallback(text_encoder, alignment="learned")
    trainer = make_trainer(model, [cea], strategy="random", max_steps=2, trainer={"optimizers": given(model)})
    trainer.train()
    assert {id(parameter) for parameter in cea.learned_parameters()} < {
        id(parameter) for parameter in trainer.optimizer.param_groups[1]["params"]
    }


def test_a_resumed_run_is_the_same(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder, tmp_path: Path
) -> None:
    def run(seed: int, checkpoint: str | None) -> PreTrainedModel:
        model = make_vit(seed)
        cea = CEACallback(text_encoder, alignment="learned")
        options = {"save_strategy": "steps", "save_steps": 3, "trainer": {"optimizers": nested(model)}}
        make_trainer(model, [cea], strategy="learn_loss", **options).train(resume_from_checkpoint=checkpoint)
        return model

    whole, resumed = run(0, None), run(1, str(tmp_path / "run" / "checkpoint-3"))
    for name, values in whole.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name]), name


def test_an_optimizer_that_steps_in_the_backward_pass_is_refused(
    make_vit: MakeModel, make_trainer: MakeTrainer
) -> None:
    model = make_vit()
    optimizers = {"optimizers": (LayerWiseDummyOptimizer({}), None)}
    with pytest.raises(ValueError, match="choose another optim"):
        make_trainer(model, strategy="learn_loss", trainer=optimizers).train()
    make_trainer(model, strategy="random", trainer=optimizers, max_steps=2).train()
