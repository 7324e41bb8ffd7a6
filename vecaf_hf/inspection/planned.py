"""What a trainer must have to be looked at."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from vecaf_hf.augmentation.callback import CEACallback
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.pool import Pool
from vecaf_hf.loop.controller import LoopController
from vecaf_hf.loop.plan import Plan


class Planned(Protocol):
    """A trainer that can say what its run is made of."""

    train_dataset: Any
    cea: CEACallback | None
    loop: LoopController | None
    work_before: CostMeter

    @property
    def pool(self) -> Pool: ...

    def plan(self) -> Plan: ...

    def pool_of(self, dataset: Any) -> Pool: ...

    def batch_loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor: ...
