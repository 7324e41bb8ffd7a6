"""An epoch is a pass's worth of samples over the pool, whatever a loop is."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vecaf_hf.loop.schedule import LoopSchedule


class PoolEpochs(TrainerCallback):
    """Sets what Trainer counts in loops to what its user means: epochs. To be the first of the callbacks.

    Args:
        schedule: The run's sizes.
    """

    def __init__(self, schedule: LoopSchedule) -> None:
        self.schedule = schedule

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.num_train_epochs = math.ceil(self.schedule.epoch_of(self.schedule.total_updates))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.epoch = self.schedule.epoch_of(state.global_step)
