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
        updates_per_loop: ceil(total / num_loops), or those of an epoch; the last loop may be shorter.
        samples_per_update: Batch x accumulation x processes.
        batch_size: Per process and micro-batch.
        gradient_accumulation_steps: Micro-batches per update.
        world_size: Processes.
        pool_size: N.
        budget: K.
        seed: The run's data seed.
        batches_short: Micro-batches that the last update of a loop lacks, as in an epoch that accumulation does not
            divide.
        updates_per_epoch: Optimizer steps of one pass over the pool, as Trainer counts them; those of a loop if None.
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
    batches_short: int = 0
    updates_per_epoch: int | None = None

    @classmethod
    def of_run(
        cls,
        args: VeCAFArguments,
        pool_size: int,
        batch_size: int,
        split_batches: bool,
        seed: int,
        embeds_selected: bool = False,
    ) -> LoopSchedule:
        """The schedule of a run.

        Args:
            args: Its options.
            pool_size: N.
            batch_size: Samples in one batch of the loader.
            split_batches: Whether the processes share each batch; otherwise each has one of its own.
            seed: The run's data seed.
            embeds_selected: Whether each selected sample takes a forward pass when a loop begins, as for CEA: then a
                loop does not select all that it trains on unless it is asked to.

        Raises:
            ValueError: The pool is empty, or with `dataloader_drop_last` has not one batch.
        """
        if pool_size == 0:
            raise ValueError("the pool has 0 samples: train_dataset is empty")
        batch_world, accumulation = 1 if split_batches else args.world_size, args.gradient_accumulation_steps
        batches = batches_over_pool(args, pool_size, batch_size, batch_world)
        per_epoch = max(math.ceil(batches / accumulation), 1)
        total = args.max_steps
        if total <= 0:
            total = updates_over_pool(args, pool_size, batch_size, batch_world)
        if args.num_loops is None:
            per_loop, short = per_epoch, per_epoch * accumulation - batches
        else:
            per_loop, short = math.ceil(total / args.num_loops), 0
        # As in a plain loader, whose only batch is smaller then.
        share = math.ceil(pool_size / args.world_size)
        batch_size = min(batch_size, share * args.world_size if split_batches else share)
        per_update = batch_size * batch_world * accumulation
        trained = per_loop * per_update - short * batch_size * batch_world
        return cls(
            total_updates=total,
            updates_per_loop=per_loop,
            samples_per_update=per_update,
            batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            world_size=args.world_size,
            pool_size=pool_size,
            budget=args.budget(pool_size, None if embeds_selected else trained),
            seed=seed,
            batches_short=short,
            updates_per_epoch=per_epoch,
        )

    @property
    def num_loops(self) -> int:
        return math.ceil(self.total_updates / self.updates_per_loop)

    @property
    def samples_per_loop(self) -> int:
        batch = self.samples_per_update // self.gradient_accumulation_steps
        return self.updates_per_loop * self.samples_per_update - self.batches_short * batch

    def loop_of(self, global_step: int) -> int:
        return global_step // self.updates_per_loop

    def epoch_of(self, global_step: int) -> float:
        """Passes' worth of samples over the pool that have been trained on after this step."""
        return global_step / (self.updates_per_epoch or self.updates_per_loop)

    def progress(self, loop: int) -> float:
        """The part of the run that is over when a loop begins."""
        return loop * self.updates_per_loop / self.total_updates

    def sizes(self) -> dict[str, int | None]:
        """What a checkpoint keeps, and a resumed run must share."""
        return {"num_loops": self.num_loops, **asdict(self)}

    def check_loops(self, asked: int | None) -> None:
        """Tell where there are fewer loops than were asked for."""
        if asked is not None and self.num_loops != asked:
            logger.warning(
                "%d steps in %d loops make loops of %d steps, and so only %d of them",
                self.total_updates,
                asked,
                self.updates_per_loop,
                self.num_loops,
            )


def updates_over_pool(args: TrainingArguments, pool_size: int, batch_size: int, batch_world: int) -> int:
    """Optimizer steps of `num_train_epochs` over the pool, as Trainer counts them for a plain dataset; the arguments
    are those of `batches_over_pool`."""
    batches = batches_over_pool(args, pool_size, batch_size, batch_world)
    return math.ceil(args.num_train_epochs * max(math.ceil(batches / args.gradient_accumulation_steps), 1))


def batches_over_pool(args: TrainingArguments, pool_size: int, batch_size: int, batch_world: int) -> int:
    """Micro-batches of a process in one pass over the pool, as in Trainer's loader of a plain dataset.

    Args:
        args: Epochs, accumulation and `dataloader_drop_last`.
        pool_size: N.
        batch_size: Samples in one batch of the loader.
        batch_world: Batches that make one micro-step: the processes, or 1 where they split each batch.

    Raises:
        ValueError: With `dataloader_drop_last` there is none.
    """
    if not args.dataloader_drop_last:
        return math.ceil(math.ceil(pool_size / batch_size) / batch_world)
    batches = pool_size // batch_size // batch_world
    if batches == 0:
        raise ValueError(
            f"the pool has {pool_size} samples, fewer than one batch of {batch_size * batch_world}, and "
            "dataloader_drop_last leaves it out: lower per_device_train_batch_size, or leave dataloader_drop_last off"
        )
    return batches
