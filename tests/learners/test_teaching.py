"""What is done to a learner's gradients, as Trainer does it to the model's."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from vecaf_hf import VeCAFArguments
from vecaf_hf.learners import Learner
from vecaf_hf.learners.teaching import Teaching


class Two(Learner):
    """Two parameters, and the last one's gradient when it steps."""

    def __init__(self) -> None:
        self.both = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(2))]
        self.at_step: list[Any] = []

    def parameters(self) -> list[nn.Parameter]:
        return self.both

    def step(self, step: int) -> None:
        self.at_step.append((step, self.both[-1].grad))


def test_gradients_are_clipped_and_cleared(tmp_path):
    teaching = Teaching(VeCAFArguments(output_dir=str(tmp_path), use_cpu=True), Accelerator(cpu=True))
    learner = teaching.learner = Two()
    for parameter in learner.both:
        parameter.grad = torch.full_like(parameter, 9.0)
    args: Any = SimpleNamespace(max_grad_norm=0.5)
    state: Any = SimpleNamespace(global_step=4)
    teaching.on_pre_optimizer_step(args, state, None)
    assert float(nn.utils.get_total_norm([p.grad for p in learner.both])) == pytest.approx(0.5, rel=1e-4)
    teaching.on_optimizer_step(args, state, None)
    assert all(parameter.grad is None for parameter in learner.both)
    assert learner.at_step == [(4, None)]
