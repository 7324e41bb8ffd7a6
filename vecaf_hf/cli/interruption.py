"""Stopping a run by a signal: a step is trained to its end, a checkpoint written, and the run can go on from there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vecaf_hf.cli.terminal import Interrupted
from vecaf_hf.trainer import VeCAFTrainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HOW_TO_GO_ON = "train(resume_from_checkpoint=True) goes on from there"


@contextmanager
def interruptible(trainer: VeCAFTrainer, how_to_go_on: str = HOW_TO_GO_ON) -> Iterator[None]:
    """Inside the block SIGINT (Ctrl-C) and SIGTERM stop training after the step that is under way, with a checkpoint,
    whatever `save_strategy` says; a second one ends the process at once.

    One process of several that gets a signal stops them all, after the same step. Before the first step there is
    nothing to save, and signals act as they did. `torchrun`, and `accelerate launch` with several processes, end
    processes by force that have not ended 30 seconds after a signal.

    Args:
        trainer: Which trains in the block.
        how_to_go_on: Words for the end of the message.

    Raises:
        Interrupted: In every process, after the checkpoint.
    """
    callback = StopsOnSignal(how_to_go_on)
    trainer.add_callback(callback)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback.forked)
    try:
        yield
    except Interrupted:
        # Trackers and progress bars are closed.
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
        raise
    finally:
        callback.close()
        trainer.remove_callback(callback)


class StopsOnSignal(TrainerCallback):
    """Waits for a signal; see `interruptible`."""

    def __init__(self, how_to_go_on: str) -> None:
        self.how_to_go_on = how_to_go_on
        self.received = 0  # the signal's number, 0 for none
        self.agreed = 0  # the same, in all processes
        self._is_open, self._is_main = True, False
        self._before: dict[int, Any] = {}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._before:
            self._is_main = state.is_world_process_zero
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.agreed = self.received
        if args.world_size > 1:
            self.agreed = int(gather(torch.tensor([self.received], device=args.device)).max())
        # Asked for again after the next step where it is not granted: save_strategy="best" may take it back.
        control.should_save = control.should_save or self.agreed > 0

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.agreed:
            go_on = self.how_to_go_on
            if args.save_only_model:
                go_on = "with save_only_model its checkpoint has no more than the model, and the run cannot go on"
            raise Interrupted(f"stopped after step {state.global_step} of {state.max_steps}; {go_on}", self.agreed)

    def _receive(self, number: int, frame: Any) -> None:
        self.received = number
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        if self._is_main:
            # Not print: what the signal has interrupted may be in the middle of one.
            os.write(2, b"\nstopping after this step, with a checkpoint; another signal stops at once\n")

    def forked(self) -> None:
        """In a child of this process, such as a loader's worker: signals to the whole group, as Ctrl-C and launchers
        send them, are the main process's to heed, which needs its workers to the step's end."""
        if self._is_open:
            os.setpgid(0, 0)
            self.close()

    def close(self) -> None:
        """Signals act as before."""
        self._is_open = False
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
