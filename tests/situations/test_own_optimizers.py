"""An optimizer of one's own, however it was made, and its schedule train what is learned beside the model too: a
strategy's learner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, SequentialLR
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


class Watches(TrainerCallback):
    """The learned tensors, and how many have moved in the run."""

    trainer: VeCAFTrainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.learned = self.trainer.teaching.learned_parameters()
            self.before = [parameter.detach().clone() for parameter in self.learned]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.moved = sum(not torch.equal(*pair) for pair in zip(self.before, self.learned, strict=True))


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
def test_what_is_learned_beside_the_model_moves(
    make_vit: MakeModel, make_trainer: MakeTrainer, how: Callable[[Any], Any]
) -> None:
    model, watches = make_vit(), Watches()
    pair = {"optimizers": how(model)} if how in (given, one_cycle, nested, without_schedule) else {}
    trainer = make_trainer(model, [watches], strategy="learn_loss", trainer=pair, max_steps=6)
    if not pair:
        how(trainer)
    watches.trainer, optimizer = trainer, trainer.optimizer
    for _ in range(2):
        trainer.train()
        # LearnLoss compares two predictions: its last bias has no gradient.
        assert watches.moved >= len(watches.learned) - 1 > 0
        # It is still the optimizer that was given, and holds nothing of an earlier run.
        assert optimizer is None or optimizer in (trainer.optimizer, trainer.optimizer.optimizer)
        held = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
        assert held == len(list(model.parameters())) + len(watches.learned)


def test_it_goes_where_it_learns_fast_and_is_regularised(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    model, watches = make_vit(), Watches()
    norm, head = [*model.vit.layernorm.parameters()], [*model.classifier.parameters()]
    others = {id(parameter) for parameter in norm + head}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in others]
    groups = [{"params": rest, "lr": 1e-4}, {"params": head}, {"params": norm, "lr": 1e-1, "weight_decay": 0.0}]
    optimizers = {"optimizers": (AdamW(groups, lr=1e-2), None)}
    trainer = watches.trainer = make_trainer(model, [watches], strategy="learn_loss", max_steps=2, trainer=optimizers)
    trainer.train()
    assert {id(parameter) for parameter in watches.learned} < {
        id(parameter) for parameter in trainer.optimizer.param_groups[1]["params"]
    }


def test_a_resumed_run_is_the_same(make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def run(seed: int, checkpoint: str | None) -> PreTrainedModel:
        model = make_vit(seed)
        options = {"save_strategy": "steps", "save_steps": 3, "trainer": {"optimizers": nested(model)}}
        make_trainer(model, strategy="learn_loss", **options).train(resume_from_checkpoint=checkpoint)
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
