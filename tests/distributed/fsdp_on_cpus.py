"""Has accelerate turn FSDP on without a GPU, where it leaves it off; all else goes the way that it goes on GPUs."""

from __future__ import annotations

from typing import Any
from unittest import mock

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

MADE = AcceleratorState.__init__


def make(state: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """What accelerate's own constructor (1.15) does for GPUs."""
    MADE(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
        if state._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(state._mixed_precision)
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def turn_on() -> None:
    mock.patch.object(AcceleratorState, "__init__", make).start()
