"""One selection for all processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from vecaf_hf.selection import Selection


def decided_by_main(accelerator: Accelerator, decide: Callable[[], Selection], size: int) -> Selection:
    """The main process's selection of `size` samples, in every process.

    Raises:
        Exception: In the main process what `decide` raised, in the others a RuntimeError that points there: a
            failure ends all of them at once, none waits for the others.
    """
    if accelerator.num_processes == 1:
        return decide()
    selection, failure = None, None
    if accelerator.is_main_process:
        try:
            selection = decide()
        except Exception as error:
            failure = error
    device = accelerator.device
    if int(broadcast(torch.tensor(int(failure is not None), device=device))):
        raise failure or RuntimeError("the selection failed in the main process; its message says why")
    weighted = bool(
        broadcast(torch.tensor(int(selection is not None and selection.weights is not None), device=device))
    )
    indices = torch.zeros(size, dtype=torch.long) if selection is None else selection.indices
    indices = broadcast(indices.to(device)).cpu()
    if not weighted:
        return selection or Selection(indices)
    weights = torch.ones(size) if selection is None or selection.weights is None else selection.weights
    weights = broadcast(weights.to(device)).cpu()
    return selection or Selection(indices, weights)
