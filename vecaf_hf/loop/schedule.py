"""How the run's batches are divided into loops."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass

from transformers import TrainingArguments

from vecaf_hf.arguments import VeCAFArguments

logger = logging.getLogger(__name__)


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

    @classmethod
    def of_run(
        cls, args: VeCAFArguments, pool_size: int, batch_size: int, split_batches: bool, seed: int
    ) -> LoopSchedule:
        """The schedule of a run.

        Args:
            args: Its options.
            pool_size: N.
            batch_size: Samples in one batch of the loader.
            split_batches: Whether the processes share each batch; otherwise each has one of its own.
            seed: The run's data seed.

        Raises:
            ValueError: The pool is smaller than a batch, or there are more loops than optimizer steps.
        """
        batch_world = 1 if split_batches else args.world_size
        if pool_size < batch_size * batch_world:
            raise ValueError(
                f"the pool has {pool_size} samples, fewer than one batch of {batch_size * batch_world}: lower "
                "per_device_train_batch_size"
            )
        total = args.max_steps
        if total <= 0:
            total = updates_over_pool(args, pool_size, batch_size, batch_world)
        if total < args.num_loops:
            raise ValueError(f"num_loops is {args.num_loops}, and the run has only {total} optimizer steps")
        schedule = cls(
            total_updates=total,
            updates_per_loop=-(-total // args.num_loops),
            samples_per_update=batch_size * batch_world * args.gradient_accumulation_steps,
            batch_size=batch_size,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            world_size=args.world_size,
            pool_size=pool_size,
            budget=args.budget(pool_size),
            seed=seed,
        )
        if schedule.num_loops != args.num_loops:
            logger.warning(
                "%d steps in %d loops make loops of %d steps, and so only %d of them",
                total,
                args.num_loops,
                schedule.updates_per_loop,
                schedule.num_loops,
            )
        return schedule

    @property
    def num_loops(self) -> int:
        return math.ceil(self.total_updates / self.updates_per_loop)

    @property
    def samples_per_loop(self) -> int:
        return self.updates_per_loop * self.samples_per_update

    def loop_of(self, global_step: int) -> int:
        return global_step // self.updates_per_loop

    def progress(self, loop: int) -> float:
        """The part of the run that is over when a loop begins."""
        return loop * self.updates_per_loop / self.total_updates

    def sizes(self) -> dict[str, int]:
        """What a checkpoint keeps, and a resumed run must share."""
        return {"num_loops": self.num_loops, **asdict(self)}


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
