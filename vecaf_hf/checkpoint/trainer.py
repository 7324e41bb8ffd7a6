"""A Trainer whose checkpoints are whole or not taken, hold no pickled objects and are loaded strictly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy, TrainOutput

from vecaf_hf.agreement import decided_by_main
from vecaf_hf.checkpoint.files import claim, find_checkpoint, latest_run, make_durable, reload_model, writing
from vecaf_hf.checkpoint.known import tell_of_differences
from vecaf_hf.checkpoint.optimizers import check_resumes
from vecaf_hf.checkpoint.precision import precision_kept
from vecaf_hf.loop import RunState
from vecaf_hf.loop.controller import LoopController
from vecaf_hf.loop.divergence import check_weights
from vecaf_hf.loop.first import first_of
from vecaf_hf.scoring.classes import settle_names
from vecaf_hf.scoring.sharded import is_sharded


class ResumingTrainer(Trainer):
    """What a killed run needs to go on as if nothing had happened, beside what Trainer's checkpoints hold.

    A subclass begins a run, or goes on with that of `_resume_folder`, and puts it into `loop`.
    """

    model: Any
    # The run that goes on, or the last one.
    loop: LoopController | None = None
    _resume_folder: str | None = None
    # Of the checkpoint that a run resumes from, until its first loop is taken up: the sum of the losses that no log had
    # shown, and the step of the last log.
    _unlogged: tuple[float, int] | None = None
    # The last run before this one.
    _loop_before: LoopController | None = None
    # Whether the model is that of the best checkpoint, which Trainer loads when the training has ended.
    best_is_loaded = False
    # The optimizer that was put into training mode; None once it, or another one, is in evaluation mode.
    _optimizer_in_training: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        tell_of_differences(Trainer)
        super().__init__(*args, **kwargs)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trainer's training. With True it resumes from the last whole checkpoint in `output_dir`, and begins at the
        beginning where there is none yet: a job that is started again after every interruption can always pass it."""
        if str(resume_from_checkpoint).lower() == "false":
            resume_from_checkpoint = None
        if resume_from_checkpoint and self.args.save_only_model:
            raise ValueError(
                "cannot resume with save_only_model: such checkpoints lack the states of optimizer, schedule and "
                "generators; set save_only_model=False, or start anew"
            )
        if resume_from_checkpoint:
            find = partial(find_checkpoint, resume_from_checkpoint, str(self.args.output_dir))
            resume_from_checkpoint = decided_by_main(self.accelerator, find)
        if not resume_from_checkpoint:
            # A run before this one may have used up their patience.
            for callback in self._patient_callbacks():
                callback.early_stopping_patience_counter = 0
        self.best_is_loaded, self._loop_before = False, self.loop
        # Before the weights are loaded, which with FSDP comes later.
        self._resume_folder = resume_from_checkpoint or None
        before = latest_run(str(self.args.output_dir))
        try:
            with first_of(self.callback_handler, self._training_begins, self._end_training_mode):
                return super().train(resume_from_checkpoint, *args, **kwargs)
        except Exception:
            # What fails before its first step leaves the folder to the run before. What is killed or interrupted there
            # begins again, and does not go on from another run's checkpoint.
            if before is not None and not self.has_trained:
                self._claim_folder(before)
            raise
        finally:
            # Found by the garbage collector, the loader would wait for each of its persistent workers.
            self._resume_folder = self._unlogged = None
            self.callback_handler.train_dataloader = None
            self.accelerator._dataloaders.clear()

    def _training_begins(self) -> None:
        """What is to be done before any callback hears of it."""

    @property
    def has_trained(self) -> bool:
        """Whether the run has made a step that nobody refused."""
        return self.loop is not None and self.loop is not self._loop_before and self.loop.has_made_step

    # --- Optimizers that have modes, as modules have ---

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """Inside the block the model has the weights that it is evaluated with, after it those from before.

        Schedule-free optimizers train with others. Trainer (transformers 5.23) exchanges them in `training_step` and
        `evaluation_loop` alone: what is scored or saved between these had whichever came last.
        """
        before = self._optimizer_in_training
        self._end_training_mode()
        try:
            yield
        finally:
            if before is not None:
                before.train()
                self._optimizer_in_training = before

    def _end_training_mode(self) -> None:
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "eval", None)):
            optimizer.eval()
        self._optimizer_in_training = None

    def _wrap_model(self, model: nn.Module, training: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        # With Trainer 5.23 the place where a run's optimizer is there and has not stepped.
        saves = self.args.save_strategy != SaveStrategy.NO and not self.args.save_only_model
        # A model that is sharded was whole the first time that it came here.
        if training and saves and not is_sharded(model):
            check_resumes(self.optimizer)
        return super()._wrap_model(model, training, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        if callable(getattr(self.optimizer, "train", None)):
            self._optimizer_in_training = self.optimizer
        return super().training_step(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._end_training_mode()
        casts = (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train
        with precision_kept(self.model) if casts else nullcontext():
            return super().evaluation_loop(*args, **kwargs)

    # --- Checkpoints ---

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's, with the weights that the model is evaluated with, and the arguments as text."""
        settle_names(self.model)
        with self.evaluated_weights():
            super().save_model(output_dir, _internal_call)
        # A pickle, which nothing reads and the Hub warns of: the same as text.
        folder = Path(str(self.args.output_dir if output_dir is None else output_dir))
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            (folder / "training_args.json").write_text(self.args.to_json_string() + "\n")

    @property
    def _running(self) -> LoopController:
        if self.loop is None:
            raise RuntimeError("no run has begun: this happens inside train()")
        return self.loop

    def _run_state(self) -> RunState:
        """What a checkpoint keeps besides Trainer's files; called in every process, and all wait for each other."""
        loop, step = self._running, self.state.global_step
        stopped = step >= loop.schedule.total_updates or self._has_lost_patience()
        return loop.state(step, stopped, self._losses_not_logged(), self._globalstep_last_logged)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Trainer's, and where a resumed run goes on: the loop, and how many micro-batches of it are trained on."""
        place = super()._init_training_state(*args, **kwargs)
        if self._resume_folder is None:
            return place
        self._take_up_callbacks(self._resume_folder)
        loop = self._running
        return loop.history.ended, loop.updates_taken_up * self.args.gradient_accumulation_steps

    def save_state(self) -> None:
        """Trainer's, and what the loops selected and cost, without which no checkpoint might tell it."""
        super().save_state()
        if self.loop is not None and self.args.should_save:
            self.loop.save_summary(str(self.args.output_dir), self.state.global_step)

    def _claim_folder(self, run: str) -> None:
        if self.args.should_save:
            claim(str(self.args.output_dir), run)

    def _losses_not_logged(self) -> list[float]:
        """Per process, the sum of the losses that no log has shown yet."""
        return self.accelerator.gather(self._tr_loss.detach().reshape(1)).tolist()

    def _take_up_losses(self) -> None:
        """Trainer starts a resumed run's sum of losses at zero, and the next log would be of some of its steps."""
        if self._unlogged is not None:
            total, self._globalstep_last_logged = self._unlogged
            self._tr_loss.fill_(total)
            self._unlogged = None

    def _save_checkpoint(self, model: nn.Module, trial: Any = None, *args: Any, **kwargs: Any) -> None:
        output_dir = str(self.args.output_dir) if trial is None else self._get_output_dir(trial)
        folder = os.path.join(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        check_weights(self.model, self.state.global_step)
        written = writing(folder) if self.args.should_save else nullcontext()
        # The optimizer's state goes with the weights that are saved.
        with written, self.evaluated_weights():
            # All processes meet in it: none writes before the main one has cleared the folder.
            state = self._run_state()
            if self.args.should_save:
                # Before Trainer's own files: it pushes and rotates at the end, and writes last what marks the
                # checkpoint as whole.
                state.save(folder)
            super()._save_checkpoint(model, trial, *args, **kwargs)

    def _save_rng_state(self, output_dir: str, *args: Any, **kwargs: Any) -> None:
        super()._save_rng_state(output_dir, *args, **kwargs)
        # Every process has written its file, and the disk has them all, before the main one marks the checkpoint as
        # whole (by a small file that it leaves to the system) and removes older ones.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            make_durable(output_dir)

    def _take_up_callbacks(self, folder: str) -> None:
        """Give callbacks what they had counted. By default Trainer's forget it (EarlyStoppingCallback its patience)."""
        if self.args.restore_callback_states_from_checkpoint:
            return
        saved: Any = TrainerState.load_from_json(os.path.join(folder, TRAINER_STATE_NAME)).stateful_callbacks or {}
        for callback in self.callback_handler.callbacks:
            kind = type(callback)
            states = saved.get(kind.__name__, [])
            alike = [other for other in self.callback_handler.callbacks if type(other) is kind]
            # Trainer appends to the list of several callbacks of a kind at each save: the last ones are theirs.
            latest = states[-len(alike) :] if isinstance(states, list) else [states]
            for state in latest[alike.index(callback) :][:1]:
                for name, value in state["attributes"].items():
                    setattr(callback, name, value)

    def _has_lost_patience(self) -> bool:
        """Whether an EarlyStoppingCallback has ended the run for good; what else stops a run may want it resumed."""
        return any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self._patient_callbacks()
        )

    def _patient_callbacks(self) -> list[EarlyStoppingCallback]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # Trainer repeats `eval_on_start` when a run resumes: the one evaluation before its first loop is taken up.
        if self.args.eval_on_start and self._unlogged is not None:
            return {}
        return super().evaluate(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        self._end_training_mode()
        if not reload_model(self.model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)

    def _load_best_model(self, *args: Any, **kwargs: Any) -> None:
        # The best weights are such as the model is evaluated with.
        self._end_training_mode()
        if not reload_model(self.model, str(self.state.best_model_checkpoint)):
            super()._load_best_model(*args, **kwargs)
        self.best_is_loaded = True
