"""VeCAFTrainer: wires scoring, augmentation, selection and the loop into transformers' Trainer."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

from vecaf_hf.arguments import VeCAFArguments, replaced, with_defaults, without_classes
from vecaf_hf.augmentation.callback import find_cea
from vecaf_hf.checkpoint.jit import save_at_steps_end
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.pool import Collator, Pool
from vecaf_hf.data.unused_columns import TellingCollator, reads_more, without_columns
from vecaf_hf.hub.trainer import PushingTrainer
from vecaf_hf.inspection.inspecting import inspect
from vecaf_hf.inspection.inspection import Inspection
from vecaf_hf.inspection.look import first_selection
from vecaf_hf.learners.beside_model import LearnsBesideModel
from vecaf_hf.learners.teaching import Teaching
from vecaf_hf.loop.class_shares import HeadCorrection
from vecaf_hf.loop.controller import Batch, LoopController
from vecaf_hf.loop.epochs import PoolEpochs
from vecaf_hf.loop.plan import Plan, begin_run, check_devices, held_out_pool
from vecaf_hf.loop.record import LoopRecord
from vecaf_hf.loop.sampler import LookSampler, Stream
from vecaf_hf.loop.schedule import LoopSchedule
from vecaf_hf.loop.state import RunState
from vecaf_hf.loop.trying import try_batch
from vecaf_hf.reporting.card import given_to_card, write_card
from vecaf_hf.reporting.report import RunReport
from vecaf_hf.scoring.classes import (
    ModelClasses,
    class_names,
    other_labels,
    other_task,
    settle_names,
)
from vecaf_hf.scoring.head import find_head, named_head, without_wrappers
from vecaf_hf.scoring.losses import SampleLoss
from vecaf_hf.scoring.objective import Objective, SampleWeight
from vecaf_hf.scoring.scorer import Scorer
from vecaf_hf.scoring.shown_outputs import ShownOutputs
from vecaf_hf.scoring.training_loss import TrainingLoss
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import Selection

logger = logging.getLogger(__name__)

# Methods of Trainer that decide what a loader samples.
SAMPLING = ("_get_train_sampler", "_get_train_dataloader", "_get_dataloader")
OTHER_LOADER = (
    "returned a loader of its own, and here the selection decides which samples are trained on: return that of "
    "super().get_train_dataloader(), or leave the method out"
)


class VeCAFTrainer(PushingTrainer):
    """A Trainer that reselects what it trains on at every loop boundary.

    Takes what `transformers.Trainer` takes, with `VeCAFArguments` (or plain `TrainingArguments`, for the defaults of
    ours), and a `CEACallback` among the callbacks for Cross-attentive Embedding Augmentation.

    Args:
        model: The pretrained model whose head was fitted to the classes, or None with a `model_init`.
        args: Options; `VeCAFArguments(output_dir="tmp_trainer")` if not given.
        data_collator: As `transformers.Trainer` takes it, like the next two.
        train_dataset: The pool, map-style.
        eval_dataset: One dataset or several by name.
        scoring_dataset: The training pool under the evaluation transform, sample by sample aligned with
            `train_dataset`; scores are taken from it. `train_dataset` itself if not given.
        scoring_collator: Makes the batches that are scored, where `data_collator` mixes samples (CutMix, MixUp).
        sample_loss_func: The objective per sample, (outputs, labels) -> Tensor [N]. It drives the selection, and
            its mean is the training loss. Without it, `compute_loss_func` applied to each sample (also in
            training, a second time, where `rescore` or the strategy goes by training's losses or the strategy has a
            learner), or else the loss that the model's `problem_type` says.
        sample_weight_func: The weight of each sample in the training loss, labels -> Tensor [N], where that is a
            weighted mean, such as `lambda labels: class_weights[labels]`: the losses of a step times their weights,
            divided by the sum of the weights. A sample's loss is then the product.
        *more: What `transformers.Trainer` takes after these: `processing_class`, ...
        work_before: What was done for the run before there was a trainer, such as restyling its pool: by all processes
            together, counted when the run begins.
        **kwargs: Of `transformers.Trainer`: `processing_class`, `compute_metrics`, `callbacks`, ...

    Raises:
        ValueError: The dataset is no map-style dataset, the head cannot be found, captions are missing, sizes do not
            fit. All at construction, before any training time is spent.
    """

    model: Any
    args: VeCAFArguments
    train_dataset: Any
    loop: LoopController | None = None
    _is_scaled: bool | None = None

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *more: Any,
        scoring_dataset: Any = None,
        scoring_collator: Any = None,
        sample_loss_func: SampleLoss | None = None,
        sample_weight_func: SampleWeight | None = None,
        work_before: CostMeter | None = None,
        **kwargs: Any,
    ) -> None:
        # Trainer's own constructor sets its loss already.
        self.training_loss = TrainingLoss(sample_loss_func, sample_weight_func, self._overrides_loss)
        # What scripts for Trainer give by position.
        super().__init__(model, with_defaults(args), data_collator, train_dataset, eval_dataset, *more, **kwargs)
        takes_none = not self.label_names and other_task(self.model) is not None
        self.label_name = self.label_names[0] if self.label_names else "" if takes_none else "labels"
        # For saves that do not come through the trainer too.
        settle_names(self.model)
        self.args = without_classes(self.args, other_labels(self.model, self.training_loss.is_own))
        self.meter, self.work_before = CostMeter(), work_before or CostMeter()
        self.cea = find_cea(self.callback_handler.callbacks, self.args.strategy)
        self._pool: Pool | None = None
        # What a run went by that found other labels than were known before, and what of it had been given.
        self._gave_way: VeCAFArguments | None = None
        self._given: dict[str, Any] = {}
        # Figures that go into Trainer's next log line.
        self._untold: dict[str, float] = {}
        if self.args.enable_jit_checkpoint:
            save_at_steps_end(self.callback_handler)
        # Whether the next loader is one to train by.
        self._run_is_due = False
        self._tell_who_samples()
        self.teaching = Teaching(self.args, self.accelerator)
        self.add_callback(self.teaching)
        self._shown = ShownOutputs()
        self.add_callback(self._shown)
        # Of a dataset's fingerprint: whether its transform reads columns that the model does not take.
        self._transforms: dict[str, bool] = {}
        self.scoring_dataset, self.scoring_collator = scoring_dataset, scoring_collator
        if self.train_dataset is not None:
            self._open_pool()

    # --- What users read ---

    @property
    def selection(self) -> Selection:
        """The current loop's selection.

        Raises:
            RuntimeError: Nothing has been selected yet.
        """
        if not self.selection_history:
            raise RuntimeError("no selection yet: the first one is made when train() begins")
        return self.selection_history[-1]

    @property
    def selection_history(self) -> list[Selection]:
        """The selections of all loops so far."""
        return self.loop.history.selections if self.loop else []

    @property
    def loop_records(self) -> list[LoopRecord]:
        """Each loop's selection in figures."""
        return self.loop.history.records if self.loop else []

    @property
    def skipped_samples(self) -> dict[int, str]:
        """Samples that could not be loaded, with the reason (`on_bad_sample="skip"`)."""
        return self.pool.ledger.skipped

    @property
    def class_names(self) -> list[str]:
        """Names of the model's classes, in the order of its logits."""
        return list(class_names(self.model))

    @property
    def report(self) -> RunReport:
        """What the run's card, plots and summary tell."""
        return RunReport(
            args=self.args,
            model=self.model,
            train_dataset=self.train_dataset,
            class_names=self.class_names,
            records=self.loop_records,
            history=self.state.log_history,
            work=self.meter.state_dict()["work"],
            skipped=len(self.skipped_samples) if self.train_dataset is not None else 0,
            cea=self.cea,
            best_step=self.state.best_global_step if self.best_is_loaded else None,
            has_processor=self.processing_class is not None,
            repository=self.hub_model_id or self.args.hub_model_id,
        )

    def inspect(self, folder: str | Path | None = None, samples: int | None = None) -> Inspection:
        """The first selection and the budget of the run, without training: `vecaf_hf.inspection.inspect`.

        Args:
            folder: Where a page, its pictures and the figures as JSON are written; nowhere if None.
            samples: Most samples to score; None for as many as the run's first loop does.

        Raises:
            ValueError: There is no training dataset, or what the run would raise before its first step.
        """
        return inspect(self, folder, samples)

    # --- Trainer's hooks ---

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        if self.args.auto_find_batch_size and batch_size is not None:
            # Before anything is selected; where a whole run needs more memory, it begins again, as for Trainer.
            self._open_pool()
            try_batch(self.model, self.pool, batch_size, self._batch_loss, self.accelerator)
        self._run_is_due = True
        try:
            return super()._inner_training_loop(batch_size, *args, **kwargs)
        finally:
            self._run_is_due = False

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Trainer's, and where a resumed run goes on: the loop, and how many micro-batches of it are trained on."""
        place = super()._init_training_state(*args, **kwargs)
        if self._resume_folder is None:
            return place
        history = self._running.history
        begun = [record.step for record in history.records[history.ended :]]
        return history.ended, (history.step - begun[0]) * self.args.gradient_accumulation_steps if begun else 0

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> tuple[nn.Module, DataLoader]:
        prepared = super()._prepare_for_training(*args, **kwargs)
        # Callbacks look at it, and find no key of ours.
        self.callback_handler.train_dataloader = self._loader_to_look_at()
        return prepared

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's loader over the samples of a loop, to be looked at: of the loop that trains or was the last to, or
        of the first one, which is selected when the loader is iterated. Where a run begins, what it trains by."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        return self.begin_run() if self._run_is_due else self._loader_to_look_at()

    def _loader_to_look_at(self) -> DataLoader:
        self._open_pool()
        schedule = self._schedule
        # A loader that is iterated again shows what it has shown.
        first = cache(partial(self._first_stream, self.pool))
        sampler = LookSampler(
            partial(self._stream_to_look_at, self.pool, first), schedule.samples_per_loop, schedule.seed
        )
        return self._get_dataloader(
            self.train_dataset, "Training", schedule.batch_size, lambda dataset: sampler, is_training=True
        )

    def _stream_to_look_at(self, pool: Pool, first: Callable[[], Stream]) -> Stream:
        if self.loop is not None and self.loop.pool is pool and self.loop.history.streams:
            return self.loop.history.streams[-1]
        return first()

    def _first_stream(self, pool: Pool) -> Stream:
        self._open_pool()
        if self.pool is not pool:
            raise RuntimeError("this loader is of another train_dataset: call get_train_dataloader() again")
        if self.args.world_size > 1:
            raise RuntimeError(
                "nothing is selected yet, and several processes select together, where one alone would wait for the "
                "others: look at the loader once the training has begun, or in a single process"
            )
        return Stream(first_selection(self.plan(apart=True)).indices, 0)

    def begin_run(self) -> DataLoader:
        """Begin a run, as the training does: the loader of one loop after another. Each pass over it is a loop of the
        current selection."""
        self._run_is_due = False
        loop = self.loop = self._begin_run()
        if self.model_wrapped is self.model:
            # An evaluation before the training has marked the model as prepared, without DistributedDataParallel, and
            # accelerate would leave it so: each process would train a model of its own.
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)._is_accelerate_prepared = False
        return self.accelerator.prepare(self.pool.training_loader(loop.sampler, loop.schedule.batch_size))

    def set_initial_training_values(self, args: Any, dataloader: DataLoader) -> tuple[Any, ...]:
        """Trainer's sizes, in which an epoch is a loop."""
        if self._run_is_due:
            raise ValueError(f"{type(self).__name__}.get_train_dataloader {OTHER_LOADER}")
        _, per_loop, _, _, per_update, batches, _ = super().set_initial_training_values(args, dataloader)
        schedule, history = self._running.schedule, self._running.history
        total = schedule.total_updates
        # The training begins: who only looks at a loader does not come here.
        self._claim_folder(history.run)
        # Trainer would fill up a short last loop, or go on after a callback had stopped the run.
        loops = history.ended if history.stopped else schedule.num_loops
        return loops, per_loop, len(self.train_dataset), total * per_update, per_update, batches, total

    @property
    def compute_loss_func(self) -> Any:
        """The loss of a batch, which Trainer reads anew in each step: the user's, or where there is a loss per sample,
        or the loop's samples have weights, ours; None for the model's own."""
        return (
            self._weighted_loss if self.training_loss.is_made_of_samples(self._weighs) else self.training_loss.of_batch
        )

    @compute_loss_func.setter
    def compute_loss_func(self, given: Any) -> None:
        self.training_loss.of_batch = given

    @property
    def _weighs(self) -> bool:
        """Whether the samples of the loop have weights."""
        return self.loop is not None and self.loop.is_weighted

    @property
    def loss_is_scaled_for_ga(self) -> bool | None:
        """Trainer's: whether the loss need not be divided by the micro-batches of a step; None for what it guesses."""
        is_mean = self.training_loss.is_mean(self._weighs, self.args)
        return False if self._is_scaled is None and is_mean else self._is_scaled

    @loss_is_scaled_for_ga.setter
    def loss_is_scaled_for_ga(self, given: bool | None) -> None:
        self._is_scaled = given

    @property
    def sample_objective(self) -> Objective:
        """The loss of each sample, by all that is given now."""
        return self.training_loss.objective(self.model, self.args.label_smoothing_factor)

    def _overrides_loss(self) -> bool:
        """Whether `compute_loss` is the user's own."""
        return type(self).compute_loss is not VeCAFTrainer.compute_loss or "compute_loss" in vars(self)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Trainer's loss; those of a training batch are recorded, and taught to a learner, if needed."""
        batch = self.loop.batch if self.loop else None
        if batch is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self.teaching.watching():
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        batch.is_seen = True
        if batch.recorder is not None or self.teaching.is_learning:
            # Trainer takes the labels away unless the model computes the loss, with which a tuple then begins.
            rest = outputs[1:] if isinstance(outputs, tuple) and self.label_name in inputs else outputs
            losses = self._losses_of(rest, batch)
            batch.seen(losses)
            if self.teaching.is_learning:
                loss = self.teaching.taught(loss, losses, batch.step, self._accumulated(num_items_in_batch))
        return (loss, outputs) if return_outputs else loss

    def _losses_of(self, outputs: Any, batch: Batch) -> Tensor:
        # An objective may draw from the global generators: not at the training's expense.
        with torch.no_grad(), seeded(0):
            return self.sample_objective.sample_losses(outputs, batch.labels)

    def _weighted_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """The objective per sample, recorded if needed, weighted and averaged: Trainer's `compute_loss_func`."""
        objective, batch = self.sample_objective, self.loop.batch if self.loop else None
        losses = objective.sample_losses(outputs, labels)
        weights = None if batch is None else batch.weights
        if batch is not None:
            batch.seen(losses)
        count = self.training_loss.count(num_items_in_batch, self.args)
        return objective.mean(losses, torch.ones_like(losses) if weights is None else weights, labels, count)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """What Trainer has the losses of a step divided by: of a weighted mean the sum of the weights. None where the
        loss is the mean of a batch whatever it is given: Trainer then divides it by the micro-batches alone."""
        labels = [batch["labels"] for batch in batch_samples if "labels" in batch]
        if self.sample_objective.sample_weights is None or not labels:
            count = super()._get_num_items_in_batch(batch_samples, device)
            if count is not None:
                self._find_out_scale(batch_samples[0], torch.as_tensor(count, device=device))
            return None if self.training_loss.is_mean(self._weighs, self.args) else count
        total = torch.stack([self.sample_objective.total_weight(some) for some in labels]).sum().to(device)
        shared = self.args.average_tokens_across_devices and self.args.world_size > 1
        return self.accelerator.gather(total).sum() if shared else total

    def _find_out_scale(self, batch: Mapping[str, Any], count: Tensor) -> None:
        """By one batch, the first time that it matters."""

        def loss_by(number: Tensor) -> Tensor:
            loss: Any = self.compute_loss(self.model, self._prepare_inputs(dict(batch)), num_items_in_batch=number)
            return loss

        with self.compute_loss_context_manager():
            self.training_loss.find_out_scale(self.model, loss_by, count, self._weighs, self.accelerator, self.args)

    def _accumulated(self, num_items_in_batch: Any) -> int:
        """Micro-batches over which a training batch's loss is a mean when Trainer is given it: it then leaves it so."""
        scaled = self.loss_is_scaled_for_ga
        if scaled is None:
            counts_items = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = self.compute_loss_func is not None or counts_items
        return self.current_gradient_accumulation_steps if scaled else 1

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Trainer's batches of a step; which samples they hold is told to `training_step` beside them."""
        batches = self._running.underway.without_keys(epoch_iterator, self.pool.refuse_unloadable)
        return super().get_batch_samples(batches, *args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Trainer's step, counted, on a batch without our keys; it passes the head by way of CEA."""
        positions = self._running.underway.positions(inputs)
        if positions is None:
            raise ValueError(f"{type(self).__name__}.get_train_dataloader {OTHER_LOADER}")
        self.pool.refuse_unloadable(inputs)
        indices: Any = self._prepare_input(positions)
        self.meter.add_training(len(indices) * self.args.world_size)
        # The user's `compute_loss` may take them away.
        labels: Any = self._prepare_input(inputs.get(self.label_name))
        self.training_loss.tell_of_soft(self.model, labels)
        # Whoever removed it by the handler.
        self._let_removed_cea_go()
        moving = self.cea.batch(indices) if self.cea else nullcontext()
        with self._running.passing(indices, self.state.global_step, labels) as batch, moving, self._shown.watching():
            loss = super().training_step(model, inputs, *args, **kwargs)
            if not batch.is_seen:
                self._see(batch)
        self._running.loss_watch.see(loss)
        for learning in self._beside_model:
            learning.after_backward(self.accelerator)
        return loss

    def _see(self, batch: Batch) -> None:
        """What is to be seen of a batch whose loss the user's `compute_loss` made, without ours.

        Raises:
            ValueError: It takes ours, or the model's own forward pass.
        """
        strategy = self.scorer.strategy
        if (
            self.teaching.is_learning
            or strategy.weighs
            or self.args.sample_weights != "none"
            or batch.weights is not None
        ):
            raise ValueError(
                f"compute_loss of {type(self).__name__} does not call super().compute_loss, and strategy "
                f"{self.args.strategy!r} weighs samples, or learns, there: call it, pass the objective as "
                "sample_loss_func, or choose another strategy"
            )
        if batch.recorder is not None:
            outputs = self._shown.outputs(self.label_name, len(batch.indices))
            batch.seen(self._losses_of(outputs, batch))

    def _wrap_model(self, model: nn.Module, training: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        """Trainer's; the optimizer, whoever made it, trains what learns beside the model too.

        Trainer (transformers 5.23) calls it when there is an optimizer, before it makes a schedule and loads states.
        """
        if training:
            for learning in self._beside_model:
                learning.join(self.optimizer)
        return super()._wrap_model(model, training, *args, **kwargs)

    @property
    def _beside_model(self) -> list[LearnsBesideModel]:
        return [self.cea, self.teaching] if self.cea else [self.teaching]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's line, and in it our figures that have none of their own."""
        untold, self._untold = self._untold, {}
        logs.update(untold)
        super().log(logs, start_time)
        for name in untold:
            # Trainer returns this dictionary to its caller, as the metrics of the training or an evaluation.
            del logs[name]

    def _tell(self, figures: dict[str, float]) -> None:
        """Log a loop's figures; where a loop is an epoch there are as many lines as without us."""
        if self.args.num_loops is None:
            self._untold |= figures
        else:
            self.log(figures)

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> Any:
        """Trainer's evaluation, counted; what it draws (the first time, workers' seeds) is not missing in training."""
        with seeded(seed_of(self.args.seed, self.state.global_step)), self.meter.timed("evaluate"):
            output = super().evaluation_loop(dataloader, *args, **kwargs)
        self.meter.add_forwards("evaluate", output.num_samples or 0)
        return output

    def remove_callback(self, callback: Any) -> None:
        """Trainer's; CEA that is removed acts no more, while a run goes on too."""
        self.pop_callback(callback)

    def pop_callback(self, callback: Any) -> TrainerCallback | None:
        """Trainer's, like `remove_callback`."""
        # In a list of its own: of that which Trainer goes through (transformers 5.23, CallbackHandler.call_event), a
        # callback that removes another would have the next one left out.
        self.callback_handler.callbacks = list(self.callback_handler.callbacks)
        popped = super().pop_callback(callback)
        self._let_removed_cea_go()
        return popped

    def _let_removed_cea_go(self) -> None:
        if self.cea is not None and self.cea not in self.callback_handler.callbacks:
            self.cea.detach()
            self.cea = None
            if self.loop is not None:
                self.loop.selector.cea = None

    def save_state(self) -> None:
        """Trainer's, and what the loops selected and cost, without which no checkpoint might tell it."""
        super().save_state()
        if self.loop is not None and self.args.should_save:
            # What only a run that goes on needs is left out, and paths, which a push would show.
            cost, step = self.meter.state_dict(), self.state.global_step
            run = replace(self.loop.history, step=step, cost=cost, skipped={})
            run.without_tensors().save(str(self.args.output_dir))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the run's card and pictures in `output_dir`, or renew our sections in the card that lies there. Takes
        what Trainer's does, and needs no network."""
        if self.is_world_process_zero():
            write_card(self.report, Path(str(self.args.output_dir)), given_to_card(*args, **kwargs))

    # --- A run ---

    def _tell_who_samples(self) -> None:
        own = [name for name in SAMPLING if getattr(type(self), name, None) is not getattr(Trainer, name, None)]
        if own:
            logger.warning(
                "%s.%s is not called for the training: the selection decides which samples are trained on, and each "
                "pass over them is shuffled. To weigh samples, choose a strategy, or write one",
                type(self).__name__,
                " and ".join(own),
            )

    @property
    def _schedule(self) -> LoopSchedule:
        split = self.accelerator.split_batches
        return LoopSchedule.of_run(self.args, len(self.pool), self._train_batch_size, split, self.pool.seed)

    @property
    def pool(self) -> Pool:
        """What is trained on.

        Raises:
            ValueError: There is no train_dataset.
        """
        if self._pool is None:
            raise ValueError("there is no train_dataset")
        return self._pool

    def _open_pool(self) -> None:
        """Make the pool, unless it is still of these datasets and arguments, and check whatever can be told without
        loading a sample."""
        cea, old = find_cea(self.callback_handler.callbacks, self.args.strategy), self._pool
        made_of = (self.train_dataset, self.scoring_dataset, self.args, self.accelerator)
        if old is not None and cea is self.cea and old.is_of(*made_of):
            return
        if old is not None and old.is_exchanged_alone(self.train_dataset, self.scoring_dataset):
            raise ValueError(
                "train_dataset was exchanged, and scoring_dataset has the samples of the old one: set "
                "trainer.scoring_dataset too, or to None"
            )
        if self.args is self._gave_way:
            # These samples may have classes, or others.
            self.args, self._gave_way = replaced(self.args, **self._given), None
        check_devices(self.args, self.accelerator)
        self.cea, self.teaching.args, self.teaching.accelerator = cea, self.args, self.accelerator
        self._pool = self._make_pool(self.train_dataset, self.scoring_dataset)
        try:
            plan = self.plan()
            plan.check()
        except BaseException:
            # What was refused is looked at again the next time.
            self._pool = old
            raise
        self.scorer = plan.scorer
        if self._overrides_loss() and self.scorer.reads_losses:
            logger.warning(
                "%s has a compute_loss of its own, and strategy %r goes by each sample's loss, which is taken to be "
                "%s: pass sample_loss_func, and sample_weight_func, to say what it is",
                type(self).__name__,
                self.args.strategy,
                "compute_loss_func's" if self.training_loss.of_batch else "that of the model's problem_type",
            )

    def plan(self, apart: bool = False) -> Plan:
        """What a run is made of; `apart` with ledger, counters and captions of its own, to look and change nothing."""
        if apart:
            self._open_pool()
        pool, cea, teaching, meter = self.pool, self.cea, self.teaching, self.meter
        if apart:
            pool, teaching, meter = copy.copy(pool), Teaching(self.args, self.accelerator), CostMeter()
            pool.forget_samples()
            cea = cea and cea.apart(pool.dataset, pool.labels, self.class_names)
        classes = ModelClasses.of(self.model, named_head(without_wrappers(self.model)), self.training_loss.is_own)
        scorer = Scorer(pool, self.model, cea is not None, self.sample_objective, meter, teaching)
        scorer.is_trained, scorer.evaluated_weights = self.state.global_step > 0, self.evaluated_weights
        return Plan(
            args=self.args,
            schedule=self._schedule,
            scorer=scorer,
            cea=cea,
            teaching=teaching,
            classes=classes,
            held_out=held_out_pool(self.args, self.eval_dataset, self._make_pool, classes.count),
            eval_dataset=self.eval_dataset,
            work_before=self.work_before,
            batch_loss=self._batch_loss,
            own_cea=self.cea,
        )

    def _begin_run(self) -> LoopController:
        """A fresh run, or a checkpoint's; whatever is wrong with the data shows here, on a few samples."""
        self._open_pool()
        self.meter = CostMeter()
        # Anew: a hyperparameter search may have changed arguments and model since construction.
        plan = self.plan()
        self.scorer = plan.scorer
        self._shown.detach()
        with self.evaluated_weights():
            loop = begin_run(plan, self._resume_folder, self._tell, self._loop_begun)
        self._untold = dict(loop.history.untold)
        if loop.args is not self.args:
            self._given = {"strategy": self.args.strategy, "class_balance": self.args.class_balance}
            self.args = self._gave_way = loop.args
        if self._resume_folder:
            self._unlogged = loop.history.losses[self.args.process_index], loop.history.logged_step
        if self._overrides_loss() and loop.selector.training_losses is not None:
            self._shown.attach(self.model)
        if self.cea is not None and loop.selector.cea is None:
            self.remove_callback(self.cea)
        self.remove_callback(LoopController)
        self.remove_callback(PoolEpochs)
        if self.args.num_loops is not None:
            self.callback_handler.callbacks.insert(0, PoolEpochs(loop.schedule))
        self._correct_head_at_end(loop)
        # Last: a save that any callback asks for at a loop's end is put off.
        self.add_callback(loop)
        return loop

    def _correct_head_at_end(self, loop: LoopController) -> None:
        correction: Any = self.pop_callback(HeadCorrection)
        if correction is not None and not self._resume_folder:
            correction.undo()
        if self.args.correct_class_shares:
            head: Any = find_head(self.model, self.args.head)
            self.callback_handler.callbacks.insert(0, HeadCorrection(head, loop.class_shares))

    @property
    def _running(self) -> LoopController:
        if self.loop is None:
            raise RuntimeError("no run has begun: this happens inside train()")
        return self.loop

    def _loop_begun(self) -> None:
        self._take_up_losses()

    def _run_state(self) -> RunState:
        loop, step = self._running, self.state.global_step
        stopped = step >= loop.schedule.total_updates or self._has_lost_patience()
        state = loop.state(step, stopped, self._losses_not_logged(), self._globalstep_last_logged)
        state.untold = dict(self._untold)
        return state

    def _batch_loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        with self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, self._prepare_inputs(batch))
        return loss

    def _make_pool(self, dataset: Any, scoring_dataset: Any = None) -> Pool:
        prepare = self._without_unused_columns
        return Pool(dataset, scoring_dataset, self.args, prepare, self.label_name, self.accelerator)

    def _without_unused_columns(self, dataset: Any, scored: bool) -> tuple[Any, Collator]:
        """The dataset and its collator, as Trainer's own loaders have them."""
        collator = self.data_collator if self.scoring_collator is None or not scored else self.scoring_collator
        if not isinstance(dataset, datasets.Dataset):
            return dataset, self._get_collator_with_removed_columns(collator, description="training")
        rest = self._remove_unused_columns(dataset, description="training")
        removed = frozenset(dataset.column_names) - frozenset(rest.column_names)
        return rest, TellingCollator(collator, removed) if removed else collator

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        """Trainer's, but what the dataset's transform reads is removed after it, with a warning."""
        remove = partial(super()._remove_unused_columns, description=description)
        return without_columns(dataset, remove, self._transform_reads)

    def _transform_reads(self, dataset: Any, rest: Any) -> bool:
        """Whether a dataset's transform reads columns that the rest has not; tried once for each dataset."""
        key = dataset._fingerprint
        if key not in self._transforms:
            self._transforms[key] = reads_more(dataset, rest)
        return self._transforms[key]
