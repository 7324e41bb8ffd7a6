"""What all processes must hold in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor

T = TypeVar("T")
# Rows that processes tell each other at once: bounds the memory of a broadcast on the accelerator.
BROADCAST_ROWS = 2**16


def decided_by_main(accelerator: Accelerator | PartialState, decide: Callable[[], T]) -> T:
    """What `decide` returns in the main process, in every process.

    Raises:
        Exception: In the main process what `decide` raised, in the others a RuntimeError that points there: a failure
            ends all of them at once, none waits for the others.
    """
    if accelerator.num_processes == 1:
        return decide()
    outcome: list[tuple[T] | None] = [None]
    failure = None
    if accelerator.is_main_process:
        try:
            outcome = [(decide(),)]
        except Exception as error:
            failure = error
    (decided,) = broadcast_object_list(outcome)
    if decided is None:
        raise failure or RuntimeError("the main process failed while the others waited; its message says why")
    return decided[0]


def tensors_of_main(
    accelerator: Accelerator, decide: Callable[[], dict[str, Tensor] | None]
) -> dict[str, Tensor] | None:
    """As `decided_by_main`, for tensors of many rows, on the CPU."""
    found: dict[str, Tensor] | None = None

    def decide_forms() -> dict[str, tuple[torch.Size, torch.dtype]] | None:
        nonlocal found
        found = decide()
        return None if found is None else {name: (values.shape, values.dtype) for name, values in found.items()}

    forms = decided_by_main(accelerator, decide_forms)
    if accelerator.num_processes == 1 or forms is None:
        return found
    found = found or {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in forms.items()}
    for values in found.values():
        for block in values.split(BROADCAST_ROWS):
            block.copy_(broadcast(block.to(accelerator.device)))
    return found
