"""The weights that a run begins with, kept until it begins a second time from them (Just Train Twice)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vecaf_hf.scoring.sharded import load_whole_state, whole_state


def starting_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name, on the CPU."""
    return {name: values.detach().cpu().clone() for name, values in whole_state(model).items()}


def start_again(model: nn.Module, optimizer: Any, kept: Mapping[str, Tensor]) -> None:
    """Give the model its starting weights back; the optimizer forgets what it has gathered, not its learning rates.

    Args:
        model: Not wrapped.
        optimizer: PyTorch's, or Accelerate's around it.
        kept: `starting_weights`.
    """
    load_whole_state(model, kept)
    optimizer.state.clear()
