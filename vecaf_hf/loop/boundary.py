"""Tells the trainer that a loop begins or has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vecaf_hf.seeding import seed_of


class LoopBoundaryCallback(TrainerCallback):
    """A loop is a Trainer epoch.

    `on_epoch_begin` is the one place to reselect: the last loop's evaluation and saving are done, all processes
    are in step, and the loader has not been iterated yet. It also fires when a run resumes inside a loop.

    Args:
        begin: Called with no arguments when a loop begins or is resumed.
        end: Called when it has ended.
        is_first_step: Whether this global step is the first of its loop.
        reseed: Seeds the global generators.
    """

    def __init__(
        self,
        begin: Callable[[], None],
        end: Callable[[], None],
        is_first_step: Callable[[int], bool],
        reseed: Callable[[int], None],
    ) -> None:
        self.begin, self.end, self.is_first_step, self.reseed = begin, end, is_first_step, reseed
        self._save_at_end = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begin()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Evaluation and workers draw from the global generators between loops, and a resumed run repeats only
        # some of that: dropout starts each loop from a seed of its own. Inside a loop Trainer restores them.
        if self.is_first_step(state.global_step):
            self.reseed(seed_of(args.seed, state.global_step))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A checkpoint of a loop's last step comes after that loop's evaluation: a run resumed from it begins with the
        # next loop, and the evaluation would be lost.
        is_last_step = self.is_first_step(state.global_step) or state.global_step >= state.max_steps
        self._save_at_end = control.should_save and is_last_step
        control.should_save = control.should_save and not self._save_at_end

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.end()
        control.should_save = control.should_save or self._save_at_end
        finished = state.global_step >= state.max_steps or control.should_training_stop
        if not finished and not self.is_first_step(state.global_step):
            raise RuntimeError(
                f"another callback ended the loop early, at step {state.global_step} (should_epoch_stop): a loop "
                "must keep its length. Use should_training_stop to end the run"
            )
