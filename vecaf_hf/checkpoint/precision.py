"""An evaluation in half precision is of the evaluation alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def precision_kept(model: nn.Module) -> Iterator[None]:
    """After the block, the model has the parameters and buffers from before again wherever the block has cast them.

    Trainer (transformers 5.23, evaluation_loop) casts the one model that there is, where `bf16_full_eval` or
    `fp16_full_eval` is set and no training goes on, and leaves it so: what is trained or saved next is rounded. Inside
    the block both are in memory. A model that Trainer shards in it is left as Trainer leaves it.
    """
    parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    try:
        yield
    finally:
        for parameter, before in parameters:
            if parameter.dtype != before.dtype:
                # On the device to which it has gone meanwhile.
                parameter.data = before.to(parameter.device)
        for module, name, buffer in buffers:
            now = module._buffers.get(name)
            if buffer is not None and now is not None and now.dtype != buffer.dtype:
                module._buffers[name] = buffer.to(now.device)
