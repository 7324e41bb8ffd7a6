"""`enable_jit_checkpoint`, at a step's end: elsewhere a resumed run would not be the uninterrupted one."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_jit_checkpoint import JITCheckpointCallback


class SavesAtStepsEnd(JITCheckpointCallback):
    """After SIGTERM a step is trained to its end, a checkpoint written, and the training ends.

    transformers 5.23 (`trainer_jit_checkpoint.py`) also saves after a backward pass, where the generators are ahead of
    the step that the checkpoint names, and by each process for itself.

    Args:
        given: Trainer's, whose signal handler stays.
    """

    def __init__(self, given: JITCheckpointCallback) -> None:
        super().__init__()
        self.trainer, self.jit_manager = given.trainer, given.jit_manager
        self.is_asked = self.is_saved = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.is_asked = self.is_saved = False

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None: ...

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None: ...

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.is_asked = self.jit_manager is not None and self.jit_manager.is_checkpoint_requested
        if args.world_size > 1:
            self.is_asked = bool(gather(torch.tensor([int(self.is_asked)], device=args.device)).max())
        control.should_save = control.should_save or self.is_asked

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Where the save was not granted, as save_strategy="best" may not, it is asked for again after the next step.
        if self.is_asked and self.jit_manager is not None:
            self.jit_manager.is_checkpoint_requested = False
            self.is_saved = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.is_saved:
            # What is due at an epoch's end is the resumed run's to do.
            control.should_save = control.should_evaluate = control.should_log = False


def save_at_steps_end(callbacks: CallbackHandler) -> None:
    """Put ours in the place of Trainer's."""
    callbacks.callbacks = [
        SavesAtStepsEnd(one) if type(one) is JITCheckpointCallback else one for one in callbacks.callbacks
    ]
