"""The samples of a loader that is looked at and not trained by."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from vecaf_hf.inspection.look import first_selection
from vecaf_hf.inspection.planned import Planned
from vecaf_hf.loop.sampler import Stream
from vecaf_hf.loop.schedule import LoopSchedule


class LookSampler(Sampler[int]):
    """Positions of the samples that a loop trains on, in its order: of the loop that trains or was the last to, or of
    the first one, which is selected when the sampler is iterated.

    Args:
        trainer: Whose pool it is of, as that is now.
        schedule: The run's sizes.
    """

    def __init__(self, trainer: Planned, schedule: LoopSchedule) -> None:
        self.trainer, self.pool, self.schedule = trainer, trainer.pool, schedule
        # What it has shown, it shows again.
        self._first: Stream | None = None

    def __len__(self) -> int:
        return self.schedule.samples_per_loop

    def __iter__(self) -> Iterator[int]:
        draws = self._stream().draws(self.schedule.samples_per_loop, self.schedule.seed)
        return (draw.position for draw in draws)

    def _stream(self) -> Stream:
        loop = self.trainer.loop
        if loop is not None and loop.pool is self.pool and loop.history.streams:
            return loop.history.streams[-1]
        if self._first is None:
            plan = self.trainer.plan()
            if plan.pool is not self.pool:
                raise RuntimeError("this loader is of another train_dataset: call get_train_dataloader() again")
            if plan.schedule.world_size > 1:
                raise RuntimeError(
                    "nothing is selected yet, and several processes select together, where one alone would wait for "
                    "the others: look at the loader once the training has begun, or in a single process"
                )
            self._first = Stream(first_selection(plan.apart()).indices, 0)
        return self._first
