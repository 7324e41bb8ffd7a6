"""Whether an optimizer goes on from its saved state as if nothing had happened: tried on a small copy, before a run."""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from vecaf_hf.seeding import seeded

# Of a parameter in each dimension.
SMALL = 8
# Before and after it is saved: RAdam's first five do nothing.
STEPS, STEPS_AFTER = 2, 6
HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def check_resumes(optimizer: Any) -> None:
    """Save, load and compare the state of a small copy, which then makes a step. What cannot be tried is let pass.

    Args:
        optimizer: PyTorch's, one like it, or Accelerate's around it. It stays as it is.

    Raises:
        ValueError: A resumed run would be another one: the state cannot be read again, or is not all of it. Of those
            that transformers 5.23 knows by name: the layerwise ones, whose state no file holds; `grokadamw` (0.1.2),
            which does not find its moments again; GaLore (1.0) and APOLLO (1.0.3), whose projectors are objects.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    with seeded(0):
        problem = _problem(inner)
    if problem is not None:
        raise ValueError(
            f"a run with {type(inner).__module__}.{type(inner).__name__} cannot be resumed: {problem}. Choose another "
            "optim, or set save_strategy='no', or save_only_model=True, whose checkpoints are not to resume from"
        )


def _problem(optimizer: Any) -> str | None:
    try:
        first, second = _Copy(optimizer), _Copy(optimizer)
        before = first.values()
        for number in range(STEPS):
            first.step(number)
        is_idle = _equal(before, first.values()) and not first.optimizer.state_dict()["state"]
    except Exception:
        return None
    if is_idle:
        # LOMO has no state: with its step, which is that of the backward pass, all of it is done.
        return None if hasattr(optimizer, "fused_backward") else "its step moves nothing, and its state is elsewhere"
    return _lost(first, second)


def _lost(first: _Copy, second: _Copy) -> str | None:
    file = io.BytesIO()
    first.mode("eval")
    try:
        torch.save(first.optimizer.state_dict(), file)
        file.seek(0)
        # As Trainer does.
        state = torch.load(file, map_location="cpu", weights_only=True)
        second.take(first.values())
        second.optimizer.load_state_dict(state)
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":
            return "its saved state has objects in it that torch.load(weights_only=True) does not read"
        return f"its state cannot be saved and loaded ({' '.join(str(error).split()):.150})"
    for number in range(STEPS, STEPS + STEPS_AFTER):
        for each in (first, second):
            each.step(number)
        if not _equal(first.values(), second.values()):
            return "with its saved state, its next step is another one"
    return None


class _Copy:
    """An optimizer like another one, of small parameters."""

    def __init__(self, optimizer: Any) -> None:
        small = {
            parameter: nn.Parameter(_corner(parameter), requires_grad=parameter.requires_grad)
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        memo: dict[int, Any] = {id(parameter): other for parameter, other in small.items()}
        for parameter, state in optimizer.state.items():
            alike = [value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape]
            memo |= {id(value): _corner(value) for value in alike}
        # Not its method `step`, which a schedule has bound to the original, nor what a user has it call.
        own = {name: value for name, value in vars(optimizer).items() if name != "step" and name not in HOOKS}
        self.optimizer = object.__new__(type(optimizer))
        vars(self.optimizer).update(copy.deepcopy(own, memo), **{name: OrderedDict() for name in HOOKS})
        self.parameters = list(small.values())
        for group in self.optimizer.param_groups:
            # A schedule may begin with a warm-up.
            if "lr" in group and not group["lr"]:
                group["lr"] = group["lr"] + 1e-3

    def mode(self, name: str) -> None:
        """Schedule-free optimizers are saved in evaluation mode, and step in training mode."""
        if callable(getattr(self.optimizer, name, None)):
            getattr(self.optimizer, name)()

    def step(self, number: int) -> None:
        with seeded(number):
            for parameter in self.parameters:
                parameter.grad = torch.randn(parameter.shape).to(parameter)
            self.mode("train")
            self.optimizer.step()

    def values(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    def take(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)


def _corner(parameter: Tensor) -> Tensor:
    return parameter.detach()[tuple(slice(SMALL) for _ in parameter.shape)].clone()


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.allclose(*pair, rtol=0, atol=0, equal_nan=True) for pair in zip(first, second, strict=True))
