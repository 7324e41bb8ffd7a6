"""The loss of each sample as training saw it last: it comes with every step and costs no forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vecaf_hf.scoring.objective import Objective
from vecaf_hf.seeding import seeded

UNSEEN = -1


class TrainingLosses:
    """A recorder over the pool.

    A loss is the objective's, of the model in training mode and of the sample under the training transform; with CEA it
    is that of the moved embedding. Of several losses of a sample in one optimizer step (a batch that spans two passes,
    accumulated batches, other processes) the largest counts: the record is the same however a step is shared.

    Args:
        size: N.
        accelerator: Its processes each record what they train on.

    Attributes:
        losses: [N], float32, NaN where unseen; on the accelerator's device, like `steps`.
        steps: Global step at which each was seen, UNSEEN where none was. LongTensor [N].
    """

    def __init__(self, size: int, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.losses = torch.full((size,), torch.nan, device=accelerator.device)
        self.steps = torch.full((size,), UNSEEN, device=accelerator.device)

    def record(self, indices: Tensor, losses: Tensor, step: int) -> None:
        """Take note of a batch; nothing is copied off the device.

        Args:
            indices: Positions in the pool, which may repeat. LongTensor [n].
            losses: [n].
            step: Optimizer steps done before this one.
        """
        held = torch.where(self.steps[indices] == step, self.losses[indices], -torch.inf)
        self.losses[indices] = held
        # Unlike plain indexing it has one result where an index repeats.
        self.losses.scatter_reduce_(0, indices, losses.detach().float(), "amax")
        self.steps[indices] = step

    def gathered(self) -> Tensor:
        """All processes' latest losses, the same in every process; each must call it. [N], on the CPU."""
        if self.accelerator.num_processes > 1:
            steps = self.accelerator.gather(self.steps[None])
            losses = self.accelerator.gather(self.losses[None])
            self.steps = steps.amax(dim=0)
            latest = losses.masked_fill((steps < self.steps) | (steps == UNSEEN), -torch.inf).amax(dim=0)
            self.losses = latest.masked_fill(self.steps == UNSEEN, torch.nan)
        return self.losses.clone().cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, of the samples seen; each process must call it."""
        losses, steps = self.gathered(), self.steps.cpu()
        seen = (steps != UNSEEN).nonzero().squeeze(1)
        return {"indices": seen, "losses": losses[seen], "steps": steps[seen]}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        device = self.accelerator.device
        seen = state["indices"].to(device)
        self.losses.fill_(torch.nan)[seen] = state["losses"].to(device)
        self.steps.fill_(UNSEEN)[seen] = state["steps"].to(device)


@dataclass
class Batch:
    """A training batch while it passes the model.

    Its losses are recorded where they are first known: by the trainer's weighted loss, or after the model's own.

    Args:
        indices: Positions of its samples in the pool. LongTensor [n].
        step: Optimizer steps done.
        labels: Of its samples, as the collator gives them.
        weights: Of its samples, [n]; None where all count alike.
        recorder: Where its losses are to be recorded, once.
        is_seen: Whether the trainer's own `compute_loss` has had it.
    """

    indices: Tensor
    step: int
    labels: Any
    weights: Tensor | None
    recorder: TrainingLosses | None
    is_seen: bool = False

    def losses(self, objective: Objective, outputs: Any) -> Tensor:
        """Of its samples, without a gradient. [n]."""
        # An objective may draw from the global generators: not at the training's expense.
        with torch.no_grad(), seeded(0):
            return objective.sample_losses(outputs, self.labels)

    def seen(self, losses: Tensor) -> None:
        """Record the losses of its samples, [n], unless that is done."""
        if self.recorder is not None:
            self.recorder.record(self.indices, losses, self.step)
            self.recorder = None
