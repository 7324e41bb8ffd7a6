"""The loop: begins and ends loops, says what a batch weighs, and keeps what a checkpoint holds of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from vecaf_hf.learners.teaching import Teaching
from vecaf_hf.loop.class_shares import shares_of, trained_shares
from vecaf_hf.loop.divergence import LossWatch, check_weights
from vecaf_hf.loop.fingerprint import check_same_selection
from vecaf_hf.loop.own_methods import OTHER_LOSS
from vecaf_hf.loop.record import record_loop
from vecaf_hf.loop.sampler import LoopSampler
from vecaf_hf.loop.schedule import LoopSchedule
from vecaf_hf.loop.selector import Past, Selector
from vecaf_hf.loop.starting_again import start_again, starting_weights
from vecaf_hf.loop.state import RunState
from vecaf_hf.loop.underway import Underway
from vecaf_hf.scoring.objective import Objective
from vecaf_hf.scoring.shown_outputs import ShownOutputs
from vecaf_hf.scoring.training_losses import Batch
from vecaf_hf.seeding import seed_of
from vecaf_hf.selection import Selection
from vecaf_hf.selection.jtt import second_training

logger = logging.getLogger(__name__)


class LoopController(TrainerCallback):
    """A loop is what Trainer takes for an epoch: a pass over its loader.

    `on_epoch_begin` is the one place to reselect: the last loop's evaluation and saving are done, all processes
    are in step, and the loader has not been iterated yet. It also fires when a run resumes inside a loop.

    Args:
        schedule: The run's sizes.
        selector: Makes each loop's selection.
        teaching: What learns beside the model.
        history: What the run has selected so far: nothing, or what a checkpoint has.
        log: Writes a line of the log.
        loop_begun: Called when a loop has begun or was taken up.

    Attributes:
        sampler: Yields one loop's samples each time it is iterated.
        underway: The batches of the step that goes on.
        batch: The training batch that passes the model; None between batches.
        loss_watch: Sees each training batch's loss.
        shown: What the model returned, where the user's `compute_loss` alone is given it.
    """

    def __init__(
        self,
        schedule: LoopSchedule,
        selector: Selector,
        teaching: Teaching,
        history: RunState,
        log: Callable[[dict[str, float]], None],
        loop_begun: Callable[[], None],
    ) -> None:
        self.schedule, self.selector, self.teaching = schedule, selector, teaching
        self.history, self.log, self.loop_begun = history, log, loop_begun
        self.args, self.pool, self.meter = selector.scorer.args, selector.pool, selector.scorer.meter
        self.sampler = LoopSampler(schedule.samples_per_loop, schedule.seed)
        self.underway = Underway(self.pool.refuse_unfit)
        self.batch: Batch | None = None
        self.shown = ShownOutputs()
        self.loss_watch = LossWatch(selector.scorer.accelerator)
        self._weights: Tensor | None = None  # [N], of the current selection
        self.has_made_step = False  # Since it began or went on.
        self._save_at_end = False
        self._is_inside = False  # Between a loop's first step and its end.
        self._is_cut = False  # A callback ends the loop with this step.
        self._begun = 0  # Step at which the current loop began.
        self._ended = 0  # Loops that have ended, of which a callback may have cut some short.

    # --- Checkpoints ---

    def state(self, step: int, stopped: bool, losses: list[float], logged_step: int) -> RunState:
        """What a checkpoint keeps; the arguments are fields of it. Each process must call it."""
        history, cea = self.history, self.selector.cea
        again = self.selector.selects_after(len(history.selections), self.schedule.num_loops)
        history.step, history.stopped, history.losses, history.logged_step = step, stopped, losses, logged_step
        # Cut, and saved all the same before its end: what is best is known only after the evaluation.
        history.ended = self._ended + self._is_cut
        history.cost, history.skipped = self.meter.state_dict(), self.pool.ledger.failed
        # Not kept: the main process would hold it for the rest of the run.
        return replace(
            history,
            selector=self.selector.state_dict(again),
            learner=self.teaching.state_dict(),
            augmentation={} if cea is None else cea.state_dict(),
        )

    def go_on(self) -> None:
        """Everything goes on from the history, which a checkpoint has brought."""
        history, cea, ledger = self.history, self.selector.cea, self.pool.ledger
        if history.stopped:
            logger.warning(
                "the run had ended at step %d, where the checkpoint was written: nothing is left", history.step
            )
        self._ended = history.ended
        self.meter.load_state_dict(history.cost)
        # With what was found broken since, when the run was probed.
        ledger.failed = {place: history.skipped.get(place, {}) | bad for place, bad in ledger.failed.items()}
        self.selector.load_state_dict(history.selector)
        self.teaching.load_state_dict(history.learner)
        if cea is not None and history.augmentation:
            cea.load_state_dict(history.augmentation)
        elif cea is not None:
            # Its callback was removed before the checkpoint was written.
            cea.detach()
            self.selector.cea = None
        # Whose it was has it now.
        history.selector, history.learner, history.augmentation = {}, {}, {}

    @property
    def updates_taken_up(self) -> int:
        """Of the loop in which a checkpoint was written: steps that are done."""
        begun = [record.step for record in self.history.records[self.history.ended :]]
        return self.history.step - begun[0] if begun else 0

    def save_summary(self, folder: str, step: int) -> None:
        """Write what the loops selected and cost, for whoever has the folder without a checkpoint."""
        # What only a run that goes on needs is left out, and paths, which a push would show.
        run = replace(self.history, step=step, cost=self.meter.state_dict(), skipped={})
        run.without_tensors().save(folder)

    # --- The log ---

    def _tell(self, figures: dict[str, float]) -> None:
        """Log a loop's figures; where a loop is an epoch there are as many lines as without us."""
        if self.args.num_loops is None:
            self.history.untold |= figures
        else:
            self.log(figures)

    def take_untold(self) -> dict[str, float]:
        """Figures that go into the log's next line."""
        untold, self.history.untold = self.history.untold, {}
        return untold

    # --- Trainer's events ---

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Select for the loop that begins, or take up the one in which a checkpoint was written."""
        self.selector.scorer.is_trained = state.global_step > 0
        loop = self._ended
        if loop == len(self.history.selections):
            with self.selector.scorer.evaluated_weights():
                self._select(loop, state.global_step, kwargs["optimizer"])
        else:
            check_same_selection(self.selector.scorer.accelerator, self.history.selections[loop], loop)
        selection = self.history.selections[loop]
        # Of a stream, where a run goes on.
        self.pool.keep(selection.indices)
        self._begun = self.history.records[loop].step
        self.sampler.stream = self.history.streams[loop]
        self._weights = self._weights_of(selection)
        self.loop_begun()
        self.meter.start("train")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Evaluation and workers draw from the global generators between loops, and a resumed run repeats only
        # some of that: dropout starts each loop from a seed of its own. Inside a loop Trainer restores them.
        if self._begins_loop(state.global_step):
            set_seed(seed_of(args.seed, state.global_step))

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.underway.end_batch()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.underway.end_step()
        self.selector.scorer.is_trained = self._is_inside = self.has_made_step = True
        self._put_off_save(state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Here, too, a callback may end the loop, or ask for a checkpoint, before Trainer saves.
        self._put_off_save(state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._put_off_save(state, control)

    def _put_off_save(self, state: TrainerState, control: TrainerControl) -> None:
        """A checkpoint of a loop's last step comes after that loop's evaluation: a run resumed from it begins with the
        next loop, and the evaluation would be lost."""
        if not self._is_inside:
            return
        is_last_step = self._begins_loop(state.global_step) or state.global_step >= state.max_steps
        is_last_step = is_last_step or control.should_epoch_stop
        self._save_at_end = self._save_at_end or (control.should_save and is_last_step)
        control.should_save = control.should_save and not is_last_step
        self._is_cut = control.should_epoch_stop and not control.should_training_stop

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.meter.stop()
        self._is_inside = self._is_cut = False
        # A step that a callback has stopped between two micro-batches.
        self.underway.forget()
        # Before the evaluation and the checkpoint that are due.
        self.loss_watch.end_loop(state.global_step)
        check_weights(kwargs["model"], state.global_step)
        due = control.should_log
        self._tell(self.meter.logs())
        # Trainer takes any log for the one that is due, that of the losses.
        control.should_log = due
        control.should_save = control.should_save or self._save_at_end
        self._save_at_end = False
        # A run that stops in a loop goes on in it when it is resumed; a callback may end a loop (should_epoch_stop).
        if self._begins_loop(state.global_step) or not control.should_training_stop:
            self._ended += 1

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.shown.detach()

    def _begins_loop(self, global_step: int) -> bool:
        return (global_step - self._begun) % self.schedule.updates_per_loop == 0

    # --- A batch ---

    @property
    def is_weighted(self) -> bool:
        """Whether the loop's samples have weights."""
        return self._weights is not None

    @contextmanager
    def passing(self, indices: Tensor, step: int, labels: Any = None) -> Iterator[Batch]:
        """Inside the block, these samples pass the model in training, its head by way of CEA. LongTensor [n]."""
        weights = None if self._weights is None else self._weights[indices]
        batch = Batch(indices, step, labels, weights, self.selector.training_losses)
        cea = self.selector.cea
        with nullcontext() if cea is None else cea.batch(indices), self.shown.watching():
            self.batch = batch
            try:
                yield batch
            finally:
                self.batch = None

    def see(self, batch: Batch, objective: Objective) -> None:
        """What is to be seen of a batch whose loss the user's `compute_loss` made, without the trainer's.

        Raises:
            ValueError: It takes the trainer's, or the model's own forward pass.
        """
        if self.teaching.is_learning or self.selector.strategy.weighs or batch.weights is not None:
            raise ValueError(OTHER_LOSS.format(self.args.strategy))
        if batch.recorder is not None:
            outputs = self.shown.outputs(self.pool.label_name, len(batch.indices))
            batch.seen(batch.losses(objective, outputs))

    # --- A boundary ---

    def _select(self, loop: int, step: int, optimizer: Any) -> None:
        history, schedule, selector = self.history, self.schedule, self.selector
        trains_twice = "mistaken" in selector.strategy.reads
        if trains_twice and loop == second_training(schedule.num_loops):
            # Of Just Train Twice: what the first one gets wrong is found, and perhaps undone with all else.
            selector.find_mistakes(loop)
            if self.args.jtt_restart:
                start_again(selector.scorer.model, optimizer, history.start)
            history.start = {}
        past = Past(history.selections, schedule.progress(loop), self._trained)
        selection, candidates, figures = selector.select(past, self._is_trainable)
        told = replace(selection, info={**selection.info, **figures})
        record = record_loop(loop, step, told, history.selections, candidates, self.pool.labels)
        history.append(selection, record, schedule.samples_per_loop)
        if trains_twice and self.args.jtt_restart and loop == 0:
            # With a head that was fitted when the loop began.
            history.start = starting_weights(selector.scorer.model)
        look = selector.scorer.score if selector.selects_after(loop + 1, schedule.num_loops) else None
        self.teaching.begin_loop(history.selections, self.pool.ledger.usable, look)
        self._tell(record.logs())

    def class_shares(self, classes: int, step: int) -> tuple[Tensor, Tensor]:
        """Each class's part of the pool, and of what was trained on until this step."""
        labels: Any = self.pool.labels
        ends = [record.step for record in self.history.records[1:]] + [step]
        begun = [record.step for record in self.history.records]
        steps = [max(0, min(end, step) - start) for start, end in zip(begun, ends, strict=True)]
        per_step = self.schedule.samples_per_update
        trained = trained_shares(self.history.selections, steps, labels, classes, per_step)
        return shares_of(labels[~self.pool.ignored], classes), trained

    def _trained(self, earlier: int) -> Tensor:
        steps = [record.step for record in self.history.records[earlier : earlier + 2]]
        count = self.schedule.samples_per_loop
        if len(steps) == 2:
            count = min(count, (steps[1] - steps[0]) * self.schedule.samples_per_update)
        return self.history.streams[earlier].samples(count, self.schedule.seed)

    def _is_trainable(self, selection: Selection) -> bool:
        """Whether what the loop would train on can be loaded; at first all that the run would train on if it kept this
        selection, as `full` does."""
        if self.args.on_bad_sample == "raise":
            # As for Trainer, a batch tells: to load all once more would take as long as training's own loading.
            return True
        schedule = self.schedule
        count = schedule.samples_per_loop * (schedule.num_loops if not self.history.selections else 1)
        stream = self.history.next_stream(selection, schedule.samples_per_loop)
        return self.selector.scorer.check_trainable(stream.samples(count, schedule.seed))

    def _weights_of(self, selection: Selection) -> Tensor | None:
        if selection.weights is None:
            return None
        self.selector.scorer.accept_objective()
        device = self.args.device
        weights = torch.zeros(self.schedule.pool_size, device=device)
        weights[selection.indices.to(device)] = selection.weights.to(device)
        return weights
