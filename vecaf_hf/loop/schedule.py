"""How the run's batches are divided into loops."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from transformers import TrainingArguments


@dataclass(frozen=True)
class LoopSchedule:
    """The sizes that fix which sample trains when; a resumed run must have the same.

    Args:
        total_updates: Optimizer steps of the run.
        updates_per_loop: ceil(total / num_loops); the last loop may be shorter.
        samples_per_update: Batch x accumulation x processes.
        batch_size: Per process and micro-batch.
        gradient_accumulation_steps: Micro-batches per update.
        world_size: Processes.
        pool_size: N.
        budget: K.
        seed: The run's data seed.
    """

    total_updates: int
    updates_per_loop: int
    samples_per_update: int
    batch_size: int
    gradient_accumulation_steps: int
    world_size: int
    pool_size: int
    budget: int
    seed: int

    @property
    def num_loops(self) -> int:
        return math.ceil(self.total_updates / self.updates_per_loop)

    @property
    def samples_per_loop(self) -> int:
        return self.updates_per_loop * self.samples_per_update

    def loop_of(self, global_step: int) -> int:
        return global_step // self.updates_per_loop

    def check_same(self, saved: dict[str, int]) -> None:
        """Raise a ValueError that names the first size that differs from a checkpoint's."""
        for name, value in asdict(self).items():
            if saved.get(name) != value:
                raise ValueError(
                    f"cannot resume: {name} was {saved.get(name)} when the checkpoint was written and is {value} now; "
                    "start with the same arguments, or start anew"
                )


def updates_over_pool(args: TrainingArguments, pool_size: int, batch_size: int, batch_world: int) -> int:
    """Optimizer steps of `num_train_epochs` over the pool, as Trainer counts them for a plain dataset.

    Args:
        args: Epochs, accumulation and `dataloader_drop_last`.
        pool_size: N.
        batch_size: Samples in one batch of the loader.
        batch_world: Batches that make one micro-step: the processes, or 1 where they split each batch.
    """
    if args.dataloader_drop_last:
        batches = pool_size // batch_size // batch_world
    else:
        batches = math.ceil(math.ceil(pool_size / batch_size) / batch_world)
    updates = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    return math.ceil(args.num_train_epochs * updates)
