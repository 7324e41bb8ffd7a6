"""VeCAFTrainer: wires scoring, augmentation, selection and the loop into transformers' Trainer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

from vecaf_hf.arguments import VeCAFArguments, replaced, with_defaults, without_classes
from vecaf_hf.augmentation.callback import CEACallback, find_cea
from vecaf_hf.checkpoint.jit import save_at_steps_end
from vecaf_hf.conditions.condition import Condition
from vecaf_hf.conditions.naming import PHRASES
from vecaf_hf.conditions.stored import FOLDER, read_conditions
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.pool import Collator, Pool
from vecaf_hf.data.sharded import by_position
from vecaf_hf.data.unused_columns import TellingCollator, UnusedColumns
from vecaf_hf.hub.trainer import PushingTrainer
from vecaf_hf.inspection.failing import Naming, conditions
from vecaf_hf.inspection.inspecting import inspect
from vecaf_hf.inspection.inspection import Inspection
from vecaf_hf.inspection.sampler import LookSampler
from vecaf_hf.learners.teaching import Teaching
from vecaf_hf.loop.own_methods import OTHER_LOADER, tell_of_loss, tell_of_samplers
from vecaf_hf.loop.plan import Plan, begin_run, check_devices, held_out_pool
from vecaf_hf.loop.record import LoopRecord
from vecaf_hf.loop.schedule import LoopSchedule
from vecaf_hf.loop.sharding import is_fsdp, zero_stage
from vecaf_hf.loop.taking_part import take_part
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
from vecaf_hf.scoring.divisor import ASKS_IF_SCALED
from vecaf_hf.scoring.head import named_head, without_wrappers
from vecaf_hf.scoring.losses import SampleLoss
from vecaf_hf.scoring.objective import Objective, SampleWeight
from vecaf_hf.scoring.scorer import Scorer
from vecaf_hf.scoring.sharded import is_sharded, prepared_once
from vecaf_hf.scoring.training_loss import TrainingLoss
from vecaf_hf.scoring.training_losses import Batch
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import Selection
from vecaf_hf.text.captions import Caption
from vecaf_hf.text.encoder import TextEncoder


class VeCAFTrainer(PushingTrainer):
    """A Trainer that reselects what it trains on at every loop boundary.

    Takes what `transformers.Trainer` takes, with `VeCAFArguments` (or plain `TrainingArguments`, for the defaults of
    ours), and a `CEACallback` among the callbacks for Cross-attentive Embedding Augmentation.

    Args:
        model: The pretrained model whose head was fitted to the classes, or None with a `model_init`.
        args: Options; `VeCAFArguments(output_dir="tmp_trainer")` if not given.
        data_collator: As `transformers.Trainer` takes it, like the next two.
        train_dataset: The pool, map-style; or streamed by `datasets` in shards (see `ShardedDataset`), without which
            `max_steps` need not be set.
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
    _is_scaled: bool | None = None
    # Within train(): the batch size of the run that has begun, 0 before. None elsewhere.
    _begun_with: int | None = None

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
        args = with_defaults(args)
        train_dataset = by_position(train_dataset, args)
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, *more, **kwargs)
        takes_none = not self.label_names and other_task(self.model) is not None
        self.label_name = self.label_names[0] if self.label_names else "" if takes_none else "labels"
        # For saves that do not come through the trainer too.
        settle_names(self.model)
        self.args = without_classes(self.args, other_labels(self.model, self.training_loss.is_own))
        self.meter, self.work_before = CostMeter(), work_before or CostMeter()
        self.cea = find_cea(self.callback_handler.callbacks, self.args.strategy)
        self._pool: Pool | None = None
        # What a run went by that found no classes where the default needs some.
        self._gave_way: VeCAFArguments | None = None
        if self.args.enable_jit_checkpoint:
            save_at_steps_end(self.callback_handler)
        tell_of_samplers(type(self), Trainer)
        self.teaching = Teaching(self.args, self.accelerator)
        self.add_callback(self.teaching)
        self._columns = UnusedColumns()
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
            failing=read_conditions(Path(str(self.args.output_dir))),
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

    def conditions(
        self,
        dataset: Any = None,
        *,
        captions: str | Sequence[Caption] | None = None,
        text_encoder: str | TextEncoder | None = None,
        phrases: Sequence[str] = PHRASES,
        save: bool = True,
    ) -> list[Condition]:
        """Groups of samples that look alike and fail far more than their classes.

        Args:
            dataset: Such as a validation set, which is scored; None for what the last boundary has scored of the pool.
            captions: A column, a list, or a template, by which groups are named; by default the column `caption`, or
                for the pool what CEA goes by.
            text_encoder: A dual encoder, such as CLIP, that names by images where captions do not.
            phrases: What it chooses from.
            save: Write them and a map to explore into `output_dir/conditions`, for the report and the card.

        Raises:
            ValueError: No boundary has scored samples with embeddings and one class each; what is wrong with captions.
        """
        folder = Path(str(self.args.output_dir)) / FOLDER if save else None
        return conditions(self, dataset, Naming(captions, text_encoder, phrases), folder)

    # --- Trainer's hooks ---

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        self._begun_with = 0
        try:
            with prepared_once(self.accelerator):
                return super().train(*args, **kwargs)
        finally:
            self._begun_with = None

    @property
    def _run_is_due(self) -> bool:
        """Whether the next loader is one to train by: the first one within train(), and where Trainer begins again with
        a smaller batch (`auto_find_batch_size`)."""
        return self._begun_with not in (None, self._train_batch_size)

    def _training_begins(self) -> None:
        super()._training_begins()
        # Callbacks look at it, and find no key of ours.
        self.callback_handler.train_dataloader = self._loader_to_look_at()
        # Trainer divides the losses; with transformers 5.3 accelerate would too (`num_steps` in trainer.py).
        self.accelerator.gradient_accumulation_steps = 1

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's loader over the samples of a loop, to be looked at: of the loop that trains or was the last to, or
        of the first one, which is selected when the loader is iterated. Where a run begins, what it trains by."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        if not self._run_is_due:
            return self._loader_to_look_at()
        if self.args.auto_find_batch_size:
            # Before anything is selected; where a whole run needs more memory, it begins again, as for Trainer.
            self._open_pool()
            try_batch(self.model, self.pool, self._train_batch_size, self.batch_loss, self.accelerator)
        return self.begin_run()

    def _loader_to_look_at(self) -> DataLoader:
        self._open_pool()
        schedule = self._schedule(self.pool, self.cea)
        sampler = LookSampler(self, schedule)
        return self.accelerator.prepare(self.pool.loader_to_look_at(sampler, schedule.batch_size))

    def begin_run(self) -> DataLoader:
        """Begin a run, fresh or a checkpoint's, as the training does: the loader of one loop after another. Each pass
        over it is a loop of the current selection. Whatever is wrong with the data shows here, on a few samples."""
        self._begun_with = self._train_batch_size
        self._open_pool()
        if self.loop is not None:
            self.loop.shown.detach()
        self.meter = CostMeter()
        if is_fsdp(self.accelerator) and not is_sharded(self.model):
            self._share_out_model()
        elif zero_stage(self.accelerator) is not None:
            # Trainer leaves it where it is until DeepSpeed has it, and the first loop is selected before. An earlier
            # run's engine, which Trainer (5.23) keeps, trains no more.
            self.model_wrapped = self.model.to(self.args.device)
        # Anew: a hyperparameter search may have changed arguments and model since construction.
        plan = self.plan()
        self.scorer = plan.scorer
        with self.evaluated_weights():
            loop = begin_run(plan, self._resume_folder, self.work_before, self.log, self._loop_begun)
        if loop.args is not self.args:
            self.args = self._gave_way = loop.args
        if self._resume_folder:
            self._unlogged = loop.history.losses[self.args.process_index], loop.history.logged_step
        if self._overrides_loss() and loop.selector.training_losses is not None:
            loop.shown.attach(self.model)
        if self.cea is not None and loop.selector.cea is None:
            self.remove_callback(self.cea)
        take_part(self.callback_handler, loop, resumes=bool(self._resume_folder))
        self.loop, self.training_loss.weighs = loop, False
        if self.model_wrapped is self.model:
            # An evaluation before the training has marked the model as prepared, without DistributedDataParallel, and
            # accelerate would leave it so: each process would train a model of its own.
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)._is_accelerate_prepared = False
        return self.accelerator.prepare(self.pool.training_loader(loop.sampler, loop.schedule.batch_size))

    def _share_out_model(self) -> None:
        """What Trainer does with a model under FSDP, but before the run's first look at samples: as Trainer leaves it
        until then, the model is not on its device, and may hold nothing but in process 0."""
        self.create_optimizer()
        model = self._wrap_model(self.model)
        self.model, self.optimizer = self.accelerator.prepare(model, self.optimizer)
        self.model_wrapped = self.model

    def set_initial_training_values(self, args: Any, dataloader: DataLoader) -> tuple[Any, ...]:
        """Trainer's sizes, in which an epoch is a loop."""
        if self._run_is_due:
            raise ValueError(OTHER_LOADER)
        _, per_loop, _, _, per_update, batches, _ = super().set_initial_training_values(args, dataloader)
        schedule, history = self._running.schedule, self._running.history
        total = schedule.total_updates
        # The training begins: who only looks at a loader does not come here.
        self._claim_folder(history.run)
        if not self._resume_folder and self.args.should_save:
            # What an earlier run of this folder failed at.
            shutil.rmtree(Path(str(self.args.output_dir)) / FOLDER, ignore_errors=True)
        # Trainer would fill up a short last loop, or go on after a callback had stopped the run.
        loops = history.ended if history.stopped else schedule.num_loops
        return loops, per_loop, len(self.train_dataset), total * per_update, per_update, batches, total

    @property
    def compute_loss_func(self) -> Any:
        """The loss of a batch, which Trainer reads anew in each step: the user's, or where there is a loss per sample,
        or the loop's samples have weights, ours; None for the model's own."""
        if not self.training_loss.is_made_of_samples:
            return self.training_loss.of_batch
        return self.training_loss.weighted(self.sample_objective, self._passing, self.args)

    @compute_loss_func.setter
    def compute_loss_func(self, given: Any) -> None:
        self.training_loss.of_batch = given

    @property
    def _passing(self) -> Batch | None:
        """The training batch that passes the model, if one does."""
        return self.loop.batch if self.loop else None

    @property
    def loss_is_scaled_for_ga(self) -> bool | None:
        """Trainer's: whether the loss need not be divided by the micro-batches of a step; None for what it guesses."""
        is_mean = self.training_loss.is_mean(self.args)
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
        batch = self._passing
        if batch is None:
            # An evaluation, unless it is tried by what the loss is divided.
            if num_items_in_batch is not None and not self.training_loss.is_looked_at:
                num_items_in_batch = self._divisor(num_items_in_batch, [inputs])
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self.teaching.watching():
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        batch.is_seen = True
        if batch.recorder is not None or self.teaching.is_learning:
            # Trainer takes the labels away unless the model computes the loss, with which a tuple then begins.
            rest = outputs[1:] if isinstance(outputs, tuple) and self.label_name in inputs else outputs
            losses = batch.losses(self.sample_objective, rest)
            batch.seen(losses)
            if self.teaching.is_learning:
                loss = self.teaching.taught(loss, losses, batch.step, self._accumulated(num_items_in_batch))
        if not ASKS_IF_SCALED and self.loss_is_scaled_for_ga is False and self._takes_for_scaled(num_items_in_batch):
            loss = loss / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def _divisor(self, count: Tensor | int | None, batch_samples: list[Any]) -> Tensor | int | None:
        """What Trainer has the losses of a step divided by: of a weighted mean the sum of the weights. None where the
        loss is the mean of a batch whatever it is given: Trainer then divides it by the micro-batches alone."""
        device = self.args.device
        labels = [batch["labels"] for batch in batch_samples if "labels" in batch]
        if self.sample_objective.sample_weights is None or not labels:
            if count is not None:
                # By one batch, the first time that it matters.
                loss_by, number = partial(self.batch_loss, self.model, batch_samples[0]), torch.as_tensor(count)
                self.training_loss.find_out_scale(self.model, loss_by, number.to(device), self.accelerator, self.args)
            return None if self.training_loss.is_mean(self.args) else count
        total = torch.stack([self.sample_objective.total_weight(some) for some in labels]).sum().to(device)
        return self.accelerator.gather(total).sum() if self.args.average_tokens_across_devices else total

    def batch_loss(self, model: nn.Module, batch: Mapping[str, Any], count: Tensor | None = None) -> Tensor:
        """The loss of a training batch that nobody learns from, [], divided by a count of samples if it is given."""
        counted: dict[str, Any] = {} if count is None else {"num_items_in_batch": count}
        with self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, self._prepare_inputs(dict(batch)), **counted)
        return loss

    def _accumulated(self, num_items_in_batch: Any) -> int:
        """Micro-batches over which a training batch's loss is a mean when Trainer is given it: it then leaves it so."""
        scaled = self.loss_is_scaled_for_ga
        if scaled is None:
            scaled = self._takes_for_scaled(num_items_in_batch)
        return self.current_gradient_accumulation_steps if scaled else 1

    def _takes_for_scaled(self, num_items_in_batch: Any) -> bool:
        """What Trainer takes a loss for where nothing says whether it is scaled."""
        counts_items = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return self.compute_loss_func is not None or counts_items

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Trainer's batches of a step; which samples they hold is told to `training_step` beside them."""
        batches = self._running.underway.without_keys(epoch_iterator)
        samples, count = super().get_batch_samples(batches, *args, **kwargs)
        return samples, self._divisor(count, samples)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Trainer's step, counted, on a batch without our keys; it passes the head by way of CEA."""
        running = self._running
        indices: Any = send_to_device(running.underway.positions(inputs), self.args.device)
        self.meter.add_training(len(indices) * self.args.world_size)
        # The user's `compute_loss` may take them away.
        labels: Any = send_to_device(inputs.get(self.label_name), self.args.device)
        self.training_loss.tell_of_soft(self.model, labels)
        # Whoever removed it by the handler.
        self._let_removed_cea_go()
        with running.passing(indices, self.state.global_step, labels) as batch:
            loss = super().training_step(model, inputs, *args, **kwargs)
            if not batch.is_seen:
                running.see(batch, self.sample_objective)
        running.loss_watch.see(loss)
        self.teaching.after_backward()
        return loss

    def _wrap_model(self, model: nn.Module, training: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        """Trainer's; the optimizer, whoever made it, trains what learns beside the model too.

        Trainer (transformers 5.23) calls it when there is an optimizer, before it makes a schedule and loads states.
        """
        if training:
            self.teaching.join(self.optimizer)
        return super()._wrap_model(model, training, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's line, and in it our figures that have none of their own."""
        untold = self.loop.take_untold() if self.loop else {}
        logs.update(untold)
        super().log(logs, start_time)
        for name in untold:
            # Trainer returns this dictionary to its caller, as the metrics of the training or an evaluation.
            del logs[name]

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

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the run's card and pictures in `output_dir`, or renew our sections in the card that lies there. Takes
        what Trainer's does, and needs no network."""
        if self.is_world_process_zero():
            write_card(self.report, Path(str(self.args.output_dir)), given_to_card(*args, **kwargs))

    # --- A run ---

    def _schedule(self, pool: Pool, cea: CEACallback | None) -> LoopSchedule:
        split, has_cea = self.accelerator.split_batches, cea is not None
        return LoopSchedule.of_run(self.args, len(pool), self._train_batch_size, split, pool.seed, has_cea)

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
        # Whoever sets another one.
        self.train_dataset = by_position(self.train_dataset, self.args)
        self.scoring_dataset = by_position(self.scoring_dataset, self.args, "scoring")
        cea, old = find_cea(self.callback_handler.callbacks, self.args.strategy), self._pool
        made_of = (self.train_dataset, self.scoring_dataset, self.args, self.accelerator)
        if old is not None:
            if cea is self.cea and old.is_of(*made_of):
                return
            old.check_exchanged(self.train_dataset, self.scoring_dataset)
        if self.args is self._gave_way:
            # These samples may have classes.
            self.args, self._gave_way = replaced(self.args, strategy=VeCAFArguments.strategy), None
        check_devices(self.args, self.accelerator)
        pool = self._make_pool(self.train_dataset, self.scoring_dataset)
        self.teaching.args, self.teaching.accelerator = self.args, self.accelerator
        plan = self._planned(pool, cea)
        plan.check()
        self._pool, self.cea, self.scorer = pool, cea, plan.scorer
        if self._overrides_loss() and self.scorer.reads_losses:
            tell_of_loss(type(self), self.args.strategy, self.training_loss.of_batch)

    def plan(self) -> Plan:
        """What a run is made of, by all that is given now."""
        self._open_pool()
        return self._planned(self.pool, self.cea)

    def _planned(self, pool: Pool, cea: CEACallback | None) -> Plan:
        classes = ModelClasses.of(self.model, named_head(without_wrappers(self.model)), self.training_loss.is_own)
        scorer = Scorer(pool, self.model, cea is not None, self.sample_objective, self.meter, self.teaching)
        scorer.is_trained, scorer.evaluated_weights = self.state.global_step > 0, self.evaluated_weights
        held_out = held_out_pool(self.args, self.eval_dataset, self._make_pool, classes.count)
        return Plan(self._schedule(pool, cea), scorer, cea, self.teaching, classes, held_out, self.eval_dataset)

    def _loop_begun(self) -> None:
        self._take_up_losses()
        self.training_loss.weighs = self._running.is_weighted

    def pool_of(self, dataset: Any) -> Pool:
        """Other samples, as this trainer loads its own."""
        return self._make_pool(by_position(dataset, self.args, "others"))

    def _make_pool(self, dataset: Any, scoring_dataset: Any = None) -> Pool:
        prepare = self._without_unused_columns
        return Pool(dataset, scoring_dataset, self.args, prepare, self.label_name, self.accelerator)

    def _without_unused_columns(self, dataset: Any, scored: bool) -> tuple[Any, Collator]:
        """The dataset and its collator, as Trainer's own loaders have them."""
        collator = self.data_collator if self.scoring_collator is None or not scored else self.scoring_collator
        if not isinstance(dataset, datasets.Dataset):
            return dataset, self._get_collator_with_removed_columns(collator, description="training")
        rest = self._remove_unused_columns(dataset, description="training")
        return rest, TellingCollator.of(collator, dataset, rest)

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        """Trainer's, but what the dataset's transform reads is removed after it."""
        return self._columns.removed(dataset, partial(super()._remove_unused_columns, description=description))
