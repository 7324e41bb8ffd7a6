"""Models whose parameters FSDP2 has shared out among the processes (torch's `fully_shard`): the one place that gathers
them. Every process must call these functions, in the same order. A model that is not shared out is left as it is.

After a forward pass without a backward pass FSDP2 keeps some modules' parameters whole, in the precision of the pass
(torch 2.14, `_fsdp_state.py`). What is read or written here are always the parts that the optimizer trains.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

Module = TypeVar("Module", bound=nn.Module)


def is_sharded(model: nn.Module) -> bool:
    """Whether processes have parts of its parameters."""
    return bool(_sharded_modules(model))


def _sharded_modules(model: nn.Module) -> list[Any]:
    # By what FSDPModule has: a torch that was built without torch.distributed has no such class.
    return [module for module in model.modules() if hasattr(type(module), "set_reshard_after_forward")]


def share_out(model: nn.Module) -> None:
    """Have its parameters be the parts that the optimizer trains."""
    for module in _sharded_modules(model):
        module.reshard()


# --- Forward passes ---


@contextmanager
def whole_weights(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Inside the block each process has the whole model, for forward passes without a backward pass: none of them waits
    for another process, and each may make as many as it has samples for."""
    modules = _sharded_modules(model)
    if not modules:
        yield
        return
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        plugin: Any = accelerator.state.fsdp_plugin
        for module in modules:
            module.reshard()
            # The outermost is whole between forward and backward pass in any case, as accelerate (1.15) leaves it.
            module.set_reshard_after_forward(module is not model and plugin.reshard_after_forward, recurse=False)


@contextmanager
def prepared_once(accelerator: Accelerator) -> Iterator[None]:
    """Inside the block, a model that is shared out already is not prepared a second time.

    accelerate (1.15.0, `_prepare_fsdp2`) would look for the optimizer's parameters by their addresses: where a process
    has no row of several of them, such as class token and positions of a ViT, each has the address 0.
    """
    prepare = accelerator.prepare

    def prepare_once(*objects: Any, **kwargs: Any) -> Any:
        models = [each for each in objects if isinstance(each, nn.Module) and is_sharded(each)]
        if not models:
            return prepare(*objects, **kwargs)
        accelerator._models += [model for model in models if all(model is not one for one in accelerator._models)]
        prepared = [accelerator.prepare_optimizer(one) if isinstance(one, Optimizer) else one for one in objects]
        return tuple(prepared) if len(prepared) > 1 else prepared[0]

    vars(accelerator)["prepare"] = prepare_once
    try:
        yield
    finally:
        del vars(accelerator)["prepare"]


# --- Values ---


def whole(values: Tensor) -> Tensor:
    """All of a parameter of which each process has a part; any other tensor as it is."""
    mesh: Any = getattr(values, "device_mesh", None)
    # Parts may be kept on the CPU, where processes with GPUs do not exchange anything.
    return values if mesh is None else values.detach().to(mesh.device_type).full_tensor()  # type: ignore[attr-defined]


def _assign(values: Tensor, found: Tensor) -> None:
    """Take these values over, in place; of a parameter that is shared out, this process's part of them."""
    mesh: Any = getattr(values, "device_mesh", None)
    if mesh is not None:
        from torch.distributed.tensor import distribute_tensor

        found = distribute_tensor(found.to(mesh.device_type, values.dtype), mesh, values.placements)  # type: ignore[attr-defined]
    values.copy_(found)


def whole_copy(model: nn.Module, part: Module) -> Module:
    """A part of the model, or where the model is shared out a copy of it with all of its parameters."""
    if not is_sharded(model):
        return part
    share_out(model)
    gathered = {id(one): nn.Parameter(whole(one.detach()), one.requires_grad) for one in part.parameters()}
    return copy.deepcopy(part, gathered)


@torch.no_grad()
def give_back(model: nn.Module, part: nn.Module, changed: nn.Module) -> None:
    """Have the model take over what was changed in a `whole_copy` of a part of it, by the main process's values."""
    if changed is not part:
        share_out(model)
        for values, found in zip(part.parameters(), changed.parameters(), strict=True):
            _assign(values, found.detach())


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """`state_dict`, of the whole model in every process."""
    share_out(model)
    return {name: whole(values) for name, values in model.state_dict().items()}


@torch.no_grad()
def load_whole_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict`, strictly, of what `whole_state` gives."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    share_out(model)
    own = model.state_dict()
    if own.keys() != state.keys():
        raise ValueError(f"these are no states of the same model: {', '.join(sorted(own.keys() ^ state.keys())[:5])}")
    for name, values in own.items():
        _assign(values, state[name])


def are_finite(model: nn.Module, parameters: list[nn.Parameter]) -> list[bool]:
    """Whether each of these of the model's parameters is, whichever process has which part of it."""
    mesh: Any = getattr(parameters[0], "device_mesh", None)
    device = parameters[0].device if mesh is None else mesh.device_type
    held: list[Any] = [parameter.detach() for parameter in parameters]
    parts = [one.to_local() if hasattr(one, "to_local") else one for one in held]
    finite = torch.stack([part.isfinite().all().to(device) for part in parts])
    if is_sharded(model):
        told = finite.int()
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MIN)
        finite = told.bool()
    return finite.tolist()
