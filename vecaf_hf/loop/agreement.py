"""What one process does for all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from vecaf_hf.selection import Selection


def on_main(accelerator: Accelerator, work: Callable[[], Selection | None]) -> Selection | None:
    """Run `work` in the main process; returns its result there and None in the others.

    Raises:
        Exception: In the main process what `work` raised, in the others a RuntimeError that points there: a failure
            ends all of them at once, none waits for the others.
    """
    if accelerator.num_processes == 1:
        return work()
    result, failure = None, None
    if accelerator.is_main_process:
        try:
            result = work()
        except Exception as error:
            failure = error
    if int(broadcast(torch.tensor(int(failure is not None), device=accelerator.device))):
        raise failure or RuntimeError("the main process failed while the others waited; its message says why")
    return result


def decided_by_main(accelerator: Accelerator, decide: Callable[[], Selection], size: int) -> Selection:
    """The main process's selection of `size` samples, in every process."""
    selection = on_main(accelerator, decide)
    if selection is not None and accelerator.num_processes == 1:
        return selection
    device = accelerator.device
    weighted = torch.tensor(int(selection is not None and selection.weights is not None), device=device)
    indices = torch.zeros(size, dtype=torch.long) if selection is None else selection.indices
    weights = None if selection is None else selection.weights
    indices = broadcast(indices.to(device)).cpu()
    if int(broadcast(weighted)):
        weights = broadcast((torch.ones(size) if weights is None else weights).to(device)).cpu()
    return selection or Selection(indices, weights)
