"""A model with levels, and a run for learners that need no Trainer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vecaf_hf.learners import ta_vaal
from vecaf_hf.learners.learner import Run


class Staged(nn.Module):
    """Three blocks over the flattened image; `blocks` are the levels."""

    def __init__(self, inputs: int = 12, width: int = 8) -> None:
        super().__init__()
        sizes = [inputs, width, width, width]
        self.blocks = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, pixel_values: Tensor) -> Tensor:
        values = pixel_values.flatten(1)
        for block in self.blocks:
            values = block(values).tanh()
        return values


@pytest.fixture
def make_staged() -> Any:
    def make(seed: int = 0, **sizes: int) -> Staged:
        torch.manual_seed(seed)
        return Staged(**sizes)

    return make


@pytest.fixture
def make_run() -> Any:
    def make(**options: Any) -> Run:
        defaults = {
            "strategy": "learn_loss",
            "total_updates": 10,
            "batch_size": 4,
            "budget": 5,
            "seed": 3,
            "device": torch.device("cpu"),
        }
        return Run(**{**defaults, **options})

    return make


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published widths are for a GPU."""
    monkeypatch.setattr(ta_vaal, "CHANNELS", (4, 4, 8, 8))
    monkeypatch.setattr(ta_vaal, "UNITS", 16)
