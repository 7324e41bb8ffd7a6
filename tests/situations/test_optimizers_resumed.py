"""An optimizer whose saved state is not all of it, or cannot be read again, is refused before a run that saves
checkpoints begins, and trains where none are saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from every_case import every_case
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from vecaf_hf import VeCAFTrainer
from vecaf_hf.checkpoint.optimizers import check_resumes

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


class Momentum(torch.optim.SGD):
    """Keeps its moments where `state_dict` does not look."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.moments: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for number, parameter in enumerate(group["params"]):
                moment = self.moments.setdefault(number, torch.zeros_like(parameter))
                moment.mul_(0.9).add_(parameter.grad)
                parameter.sub_(moment, alpha=group["lr"])


class Counter:
    value = 0


class Counting(torch.optim.SGD):
    """Keeps an object that is no tensor in its state, as GaLore its projector."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter].setdefault("counter", Counter()).value += 1


def layerwise(parameters: Any) -> LayerWiseDummyOptimizer:
    return LayerWiseDummyOptimizer({parameter: torch.optim.AdamW([parameter]) for parameter in parameters})


@pytest.mark.parametrize(
    ("make", "problem"),
    [(Momentum, "its next step is another one"), (Counting, "does not read"), (layerwise, "its state is elsewhere")],
)
def test_it_is_refused_where_checkpoints_are_written(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, make: Callable[..., Any], problem: str
) -> None:
    model = make_vit()
    optimizer = make(model.parameters())
    given = {"trainer": {"optimizers": (optimizer, LambdaLR(optimizer, lambda step: 1.0))}}
    refused = make_trainer(model, strategy="random", save_strategy="epoch", **given)
    with pytest.raises(ValueError, match=rf"cannot be resumed: .*{problem}.*save_strategy='no'"):
        refused.train()
    assert refused.state.global_step == 0 and not refused.selection_history
    for allowed in ({"save_strategy": "no"}, {"save_strategy": "epoch", "save_only_model": True}):
        make_trainer(model, strategy="random", max_steps=2, **allowed, **given).train()


@every_case("name", ["ASGD", "Adadelta", "Adagrad", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"])
def test_those_of_torch_pass_and_are_left_as_they_are(name: str) -> None:
    layer = nn.Linear(20, 12)
    optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.01)
    schedule = LambdaLR(optimizer, lambda step: min(1.0, step / 10))
    watched: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: watched.append(1))
    for _ in range(2):
        layer(torch.ones(1, 20)).sum().backward()
        optimizer.step()
        schedule.step()
    before, weights = repr(optimizer.state_dict()), layer.weight.clone()
    check_resumes(optimizer)
    assert repr(optimizer.state_dict()) == before and torch.equal(weights, layer.weight) and len(watched) == 2


@pytest.mark.parametrize(
    ("name", "package", "passes"),
    [
        ("schedule_free_radam", "schedulefree", True),
        ("grokadamw", "grokadamw", False),
        ("galore_adamw", "galore_torch", False),
        ("galore_adamw_layerwise", "galore_torch", False),
        ("apollo_adamw", "apollo_torch", False),
    ],
)
def test_the_libraries_themselves(make_vit: MakeModel, tmp_path: Path, name: str, package: str, passes: bool) -> None:
    # These packages are broken without the right bitsandbytes: an ImportError skips them too.
    pytest.importorskip(package, exc_type=ImportError)
    args = TrainingArguments(str(tmp_path), optim=name, use_cpu=True, report_to="none")
    if "schedule_free" not in name and name != "grokadamw":
        args.optim_target_modules = "all-linear"
    optimizer = Trainer(make_vit(), args).create_optimizer()
    if passes:
        check_resumes(optimizer)
    else:
        with pytest.raises(ValueError, match="cannot be resumed"):
            check_resumes(optimizer)
