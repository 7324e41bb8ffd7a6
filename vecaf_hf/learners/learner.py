"""The contract of what a strategy learns of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vecaf_hf.selection.candidates import Candidates


@dataclass(frozen=True)
class Run:
    """What a learner knows of the run that it is part of.

    Args:
        strategy: Its name, for messages.
        total_updates: Optimizer steps.
        batch_size: Samples in a micro-batch of one process.
        budget: K.
        seed: Fixes, with the step, everything random.
        device: Of the model.
        rank: This process, 0-based.
        average: A tensor's mean over all processes; each must call it.
        counted: (name, samples, factor=1) -> a block whose FLOPs are booked, times the factor. It is measured once for
            each name, per sample.
    """

    strategy: str
    total_updates: int
    batch_size: int
    budget: int
    seed: int
    device: torch.device
    rank: int = 0
    average: Callable[[Tensor], Tensor] = lambda values: values
    counted: Callable[..., AbstractContextManager[None]] = lambda *_, **__: nullcontext()


class Learner:
    """Networks that learn beside the model, and score samples for a strategy: `Candidates.learned_scores`.

    In a run: `attach`; `build` for what a first forward pass has shown; then `loss` in every micro-batch, `step` after
    every optimizer step, `begin_loop` after a selection and `scores` before the next one; `detach`. `Teaching` calls
    them. What a learner draws must not come from the global generators, except in `build`, for which they are seeded.

    Args:
        model: It learns beside this one.
        run: It is part of this run.

    Raises:
        ValueError: The model or the run does not fit.
    """

    def __init__(self, model: nn.Module, run: Run) -> None:
        self.model, self.run = model, run

    def attach(self) -> None:
        """Set hooks on the model."""
        raise NotImplementedError

    def detach(self) -> None:
        """Take them off."""
        raise NotImplementedError

    def watching(self) -> AbstractContextManager[None]:
        """Inside the block a forward pass of the model is looked at, for the one call after it that needs it."""
        raise NotImplementedError

    def sizes(self, inputs: Mapping[str, Any], count: int) -> Any:
        """After a watched pass over `count` samples: what `build` must know, in plain values."""
        raise NotImplementedError

    def build(self, sizes: Any) -> None:
        """Make the networks, the same in all processes."""
        raise NotImplementedError

    def networks(self) -> nn.ModuleDict:
        """All that learns."""
        raise NotImplementedError

    def parameters(self) -> list[nn.Parameter]:
        """What the model's own optimizer trains, by `loss`."""
        raise NotImplementedError

    def loss(self, losses: Tensor, step: int) -> Tensor:
        """After a watched pass over a training batch: what is added to its mean loss, [].

        Args:
            losses: Finetuning loss of each sample, without a gradient. [n].
            step: Optimizer steps done.
        """
        raise NotImplementedError

    def step(self, step: int) -> None:
        """What learns apart from the model does so once; `step` optimizer steps came before this one."""

    def scores(self, inputs: Mapping[str, Any], count: int) -> dict[str, Tensor]:
        """After a watched pass over `count` samples of the pool: fields of `Candidates`, `learned_scores` [count] or,
        while `begin_loop` looks at samples, whatever it needs."""
        raise NotImplementedError

    def begin_loop(self, selected: Tensor, others: Tensor, look: Callable[[Tensor], Candidates]) -> None:
        """A loop begins whose training another selection follows.

        Args:
            selected: Samples that this loop or an earlier one has selected, rising. LongTensor [n].
            others: All others of the pool, rising. LongTensor [m].
            look: Candidates of these positions, of a pass that is watched in every process.
        """

    def end(self) -> None:
        """No selection follows any more: what only serves the next one can rest."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return dict(self.networks().state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        networks = self.networks()
        networks.load_state_dict({name: state[name] for name in networks.state_dict()})
