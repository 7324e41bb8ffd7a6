"""A run's domain map: trained anew at each loop boundary, the same in all processes, and counted."""

from __future__ import annotations

from contextlib import AbstractContextManager

from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, is_grad_enabled

from vecaf_hf.augmentation.domain_map import DomainMap, Known, fitted
from vecaf_hf.cost import CostMeter
from vecaf_hf.seeding import seed_of


class CountedMap:
    """Counts as auxiliary work what a `DomainMap` does.

    Args:
        dimension: d.
        domains: D.
        seed: Of its training, with the loop.
        accelerator: The processes that train together.
        meter: Of the run.
    """

    def __init__(self, dimension: int, domains: int, seed: int, accelerator: Accelerator, meter: CostMeter) -> None:
        self.network = DomainMap(dimension, domains).requires_grad_(False).to(accelerator.device)
        self.domains, self.seed = domains, seed
        self.accelerator, self.meter = accelerator, meter

    def fit(self, known: Known, loop: int) -> None:
        """Train it as `fitted` says, in every process on the same data: what all repeat counts once."""

        def counted(samples: int) -> AbstractContextManager[None]:
            return self.meter.forward("auxiliary", samples, size="domain_map_training")

        seed = seed_of(self.seed, loop)
        with self.meter.timed("auxiliary"):
            made = fitted(known, self.domains, seed, counted)
        self.network.load_state_dict(made.state_dict())
        if self.accelerator.num_processes > 1:
            broadcast([parameter.data for parameter in self.network.parameters()])

    def __call__(self, embeddings: Tensor, domains: Tensor) -> Tensor:
        """[n, d], LongTensor [n] -> unit rows [n, d]."""
        # In training each process has a batch of its own, and the pass back to the embeddings takes as much again: the
        # map itself has no gradient. At a boundary all repeat the same.
        processes, passes = (self.accelerator.num_processes, 2) if is_grad_enabled() else (1, 1)
        with (
            self.meter.timed("auxiliary"),
            self.meter.forward("auxiliary", len(embeddings), processes, "domain_map", passes),
        ):
            return self.network(embeddings, domains)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"map.{name}": tensor for name, tensor in self.network.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.network.load_state_dict({name: state[f"map.{name}"] for name in self.network.state_dict()})
