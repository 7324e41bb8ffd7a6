"""VeCAFTrainer: wires scoring, augmentation, selection and the loop into transformers' Trainer."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainingArguments, set_seed

from vecaf_hf.agreement import check_same_selection
from vecaf_hf.arguments import RESCORE, with_defaults
from vecaf_hf.augmentation import CEACallback
from vecaf_hf.checkpoint.files import claim
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.indexed import POOL_INDEX
from vecaf_hf.hub.trainer import PushingTrainer
from vecaf_hf.learners.beside_model import LearnsBesideModel
from vecaf_hf.loop import (
    LoopBoundaryCallback,
    LoopRecord,
    LoopSampler,
    LoopSchedule,
    RunState,
    record_loop,
)
from vecaf_hf.loop.selector import Reselection
from vecaf_hf.loop.starting_again import start_again, starting_weights
from vecaf_hf.loop.state import pool_fingerprint
from vecaf_hf.printable import listed
from vecaf_hf.reporting.card import given_to_card, write_card
from vecaf_hf.scoring.head import find_head
from vecaf_hf.scoring.losses import SampleLoss, weighted_mean
from vecaf_hf.scoring.trainer import PROXY_WITHOUT_CLASSES
from vecaf_hf.scoring.training_losses import TrainingLosses
from vecaf_hf.scoring.warmup import linear_head, linear_of
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import STRATEGIES, Selection, Strategy, find_strategy
from vecaf_hf.selection.jtt import second_training

if TYPE_CHECKING:
    from vecaf_hf.inspection import Inspection

logger = logging.getLogger(__name__)


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
        sample_loss_func: The objective per sample, (outputs, labels) -> Tensor [N]. It drives the selection, and
            its mean is the training loss. Without it, `compute_loss_func` applied to each sample (also in
            training, a second time, where `rescore` or the strategy goes by training's losses or the strategy has a
            learner), or else the loss that the model's `problem_type` says.
        work_before: What was done for the run before there was a trainer, such as restyling its pool: by all processes
            together, counted when the run begins.
        **kwargs: Of `transformers.Trainer`: `processing_class`, `compute_metrics`, `callbacks`, ...

    Raises:
        ValueError: The dataset is no map-style dataset, the head cannot be found, captions are missing, sizes do not
            fit. All at construction, before any training time is spent.
    """

    model: Any
    train_dataset: Any

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        scoring_dataset: Any = None,
        sample_loss_func: SampleLoss | None = None,
        work_before: CostMeter | None = None,
        **kwargs: Any,
    ) -> None:
        # What scripts for Trainer give by position.
        data = {"data_collator": data_collator, "train_dataset": train_dataset, "eval_dataset": eval_dataset}
        super().__init__(model, with_defaults(args), sample_loss_func, work_before, **data, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "FSDP and DeepSpeed are not supported: the head of a sharded model sees no whole embedding"
            )
        if self.args.n_gpu > 1:
            raise ValueError(
                f"one process sees {self.args.n_gpu} GPUs: start one process per GPU with `accelerate launch`, or "
                "choose one with CUDA_VISIBLE_DEVICES"
            )
        self.cea = self._find_cea()
        self._makes_optimizer = self.optimizer is None
        self._weights: Tensor | None = None  # [N], of the current selection
        self._batch_indices: Tensor | None = None
        self._run: RunState | None = None
        self._training_losses: TrainingLosses | None = None
        self._unlogged: tuple[float, int] | None = None
        self._unweighted_loss = self.compute_loss_func if sample_loss_func is None else self._weighted_loss
        self.compute_loss_func = self._unweighted_loss
        if self.train_dataset is not None:
            self._pool = self._make_pool(self.train_dataset, scoring_dataset)
            self._check_run()
        self.add_callback(self._teaching)
        self.add_callback(LoopBoundaryCallback(self._begin_loop, self._end_loop, self._is_first_step, reseed=set_seed))

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
        return self._run.selections if self._run else []

    @property
    def loop_records(self) -> list[LoopRecord]:
        """Each loop's selection in figures."""
        return self._run.records if self._run else []

    @property
    def skipped_samples(self) -> dict[int, str]:
        """Samples that could not be loaded, with the reason (`on_bad_sample="skip"`)."""
        return self._pool.ledger.skipped

    def inspect(self, folder: str | Path | None = None, samples: int | None = None) -> Inspection:
        """The first selection and the budget of the run, without training: `vecaf_hf.inspection.inspect`.

        Args:
            folder: Where a page, its pictures and the figures as JSON are written; nowhere if None.
            samples: Most samples to score; None for as many as the run's first loop does.

        Raises:
            ValueError: There is no training dataset, or what the run would raise before its first step.
        """
        from vecaf_hf.inspection import inspect

        return inspect(self, folder, samples)

    # --- Construction ---

    def _check_run(self) -> None:
        """Whatever can be told before a sample is loaded."""
        self._head = find_head(self.model, self.args.head)
        self._schedule = self._make_schedule()
        self._teaching.make(self.model, self._schedule, self.meter)
        if self.args.head_warmup:
            linear_of(self._head)
        reads = find_strategy(self.args.strategy).reads
        if "head" in reads:
            linear_head(self._head, self.args.strategy)
        if "irreducible" in reads:
            self._held_out()
        if self.args.scoring_way[0] == "proxy" and not self._has_classes:
            raise ValueError(PROXY_WITHOUT_CLASSES)
        self.args.check_part_scored(len(self._pool))
        self._pool.check_classes(self._classes, self._num_classes)
        if self.cea is not None:
            self.cea.read_captions(self._pool.dataset, self._pool.labels, self.class_names)

    def _find_cea(self) -> CEACallback | None:
        found = [callback for callback in self.callback_handler.callbacks if isinstance(callback, CEACallback)]
        if len(found) > 1:
            raise ValueError("there are two CEACallbacks: keep one")
        strategy = find_strategy(self.args.strategy)
        if found and found[0].has_affinity:
            self._check_affinity(found[0], strategy)
        moves = "embeddings" in strategy.reads and "logits" not in strategy.needs
        if found and found[0].options.act_on == ["selection"] and not moves:
            raise ValueError(
                f"act_on is ['selection'], and strategy {self.args.strategy!r} does not go by moved embeddings, so "
                "nothing would be moved: add 'training', or leave CEA out"
            )
        return found[0] if found else None

    def _check_affinity(self, cea: CEACallback, strategy: Strategy) -> None:
        if "relevance" not in strategy.reads:
            heeding = listed(repr(name) for name, one in STRATEGIES.items() if "relevance" in one.reads)
            raise ValueError(
                f"domain_affinity acts on what {heeding} weigh or draw by, and strategy {self.args.strategy!r} does "
                "neither: choose one of these, or leave domain_affinity unset"
            )
        if cea.options.affinity_by == "image" and not strategy.needs_forward:
            raise ValueError(
                f"affinity_by is 'image', and strategy {self.args.strategy!r} scores no images: set "
                "affinity_by='caption' or strategy='ods'"
            )
        if cea.options.affinity_by == "caption" and cea.is_captioned_by_class:
            raise ValueError(
                f"domain_affinity goes by captions, and captions={cea.captions!r} is the same for all samples of a "
                "class: give captions of the images, or set affinity_by='image' with strategy='ods'"
            )

    def _make_schedule(self) -> LoopSchedule:
        pool, split_batches = self._pool, self.accelerator.split_batches
        return LoopSchedule.of_run(self.args, len(pool), self._train_batch_size, split_batches, pool.seed)

    # --- Trainer's hooks ---

    def get_train_dataloader(self) -> DataLoader:
        """The loader of one loop after another; each pass over it is a loop of the current selection."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        self._begin_run()
        if self.model_wrapped is self.model:
            # An evaluation before the training has marked the model as prepared, without DistributedDataParallel, and
            # accelerate would leave it so: each process would train a model of its own.
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)._is_accelerate_prepared = False
        schedule = self._schedule
        self._sampler = LoopSampler(schedule.samples_per_loop, schedule.seed)
        return self.accelerator.prepare(self._pool.training_loader(self._sampler, schedule.batch_size))

    def set_initial_training_values(self, args: Any, dataloader: DataLoader) -> tuple[Any, ...]:
        """Trainer's sizes; epochs count passes over the pool, not loops."""
        _, per_loop, _, _, per_update, batches, _ = super().set_initial_training_values(args, dataloader)
        total, run = self._schedule.total_updates, self._run
        assert run is not None
        return (
            # Trainer would fill up a short last loop, or go on after a callback had stopped the run.
            self._schedule.loop_of(run.step) if run.stopped else self._schedule.num_loops,
            per_loop,
            len(self.train_dataset),
            total * per_update,
            per_update,
            batches,
            total,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Trainer's loss; a training batch passes the head by way of CEA, and its losses are recorded if needed."""
        indices = inputs.pop(POOL_INDEX, None)
        if indices is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels: Any = inputs.get(self.label_name)
        self._batch_indices = indices
        try:
            with self._teaching.watching(), self.cea.batch(indices) if self.cea else nullcontext():
                loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        finally:
            self._batch_indices = None
        recorder = None if self.compute_loss_func == self._weighted_loss else self._training_losses
        if recorder is not None or self._teaching.learner is not None:
            # Trainer takes the labels away unless the model computes the loss, with which a tuple then begins.
            rest = outputs[1:] if isinstance(outputs, tuple) and self.label_name in inputs else outputs
            # An objective may draw from the global generators: not at the training's expense.
            with torch.no_grad(), seeded(0):
                losses = self._objective.sample_losses(rest, labels)
            if recorder is not None:
                recorder.record(indices, losses, self.state.global_step)
            if self._teaching.learner is not None:
                accumulated = self._accumulated(num_items_in_batch)
                loss = self._teaching.taught(loss, losses, self.state.global_step, accumulated)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Trainer's step, counted."""
        self._pool.refuse_unloadable(inputs)
        self.meter.add_training(len(inputs[POOL_INDEX]) * self.args.world_size)
        loss = super().training_step(model, inputs, *args, **kwargs)
        for learning in self._learning_beside:
            learning.after_backward(self.accelerator)
        return loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimizer, and in it the alignment when that is learned, and what a learner learns."""
        optimizer = super().create_optimizer(model)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for learning in self._learning_beside:
            learned = learning.learned_parameters()
            if any(id(parameter) not in held for parameter in learned):
                decay = self.args.weight_decay if learning.decays else 0.0
                optimizer.add_param_group({"params": learned, "weight_decay": decay})
        return optimizer

    @property
    def _learning_beside(self) -> list[LearnsBesideModel]:
        return [self.cea, self._teaching] if self.cea else [self._teaching]

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> Any:
        """Trainer's evaluation, counted; what it draws (the first time, workers' seeds) is not missing in training."""
        with seeded(seed_of(self.args.seed, self.state.global_step)), self.meter.timed("evaluate"):
            output = super().evaluation_loop(dataloader, *args, **kwargs)
        self.meter.add_forwards("evaluate", output.num_samples or 0)
        return output

    def save_state(self) -> None:
        """Trainer's, and what the loops selected and cost, without which no checkpoint might tell it."""
        super().save_state()
        if self._run is not None and self.args.should_save:
            # What only a run that goes on needs is left out, and paths, which a push would show.
            run = replace(self._run, step=self.state.global_step, cost=self.meter.state(), skipped={})
            run.without_tensors().save(str(self.args.output_dir))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the run's card and pictures in `output_dir`, or renew our sections in the card that lies there. Takes
        what Trainer's does, and needs no network."""
        if self.is_world_process_zero():
            write_card(self, Path(str(self.args.output_dir)), given_to_card(*args, **kwargs))

    # --- The loop ---

    def _begin_run(self) -> None:
        """A fresh state, or a checkpoint's; whatever is wrong with the data shows here, on a few samples."""
        # Anew: a hyperparameter search may have changed arguments and model since construction.
        schedule = self._schedule = self._make_schedule()
        self.meter, self._weights = CostMeter(), None
        strategy = find_strategy(self.args.strategy)
        if self._makes_optimizer and (strategy.learner or (self.cea is not None and self.cea.learned_parameters())):
            # It holds what the last run learned beside the model.
            self.optimizer = None
        # A save that any callback asks for at a loop's end is put off, so ours sees it last.
        self.callback_handler.callbacks.sort(key=lambda callback: isinstance(callback, LoopBoundaryCallback))
        self._head = find_head(self.model, self.args.head)
        self._teaching.begin(self.model, schedule, self.meter)
        probe = self._probe(schedule.pool_size)
        self._teaching.build()
        self.meter.forget_work()
        self.meter.add_work(self.work_before)
        uses_labels = "labels" in (strategy.reads if probe.classes is not None else strategy.needs)
        if uses_labels and not strategy.needs_forward:
            self._pool.load_labels()
        rescores = strategy.needs_forward and not self.args.single_run
        way = RESCORE[self.args.scoring_way[0]]
        records = "training_losses" in strategy.reads or (rescores and way.reads_training_losses)
        self._training_losses = TrainingLosses(schedule.pool_size, self.accelerator) if records else None
        self._reselection = Reselection(
            args=self.args,
            budget=schedule.budget,
            pool=self._pool,
            score=self._score,
            head=self._head,
            sample_loss=self._objective.sample_losses,
            output_kind=self._output_kind,
            training_losses=self._training_losses,
            cea=self.cea,
            meter=self.meter,
            accelerator=self.accelerator,
        )
        self._reselection.try_out(probe)
        if self.cea is not None:
            assert probe.embeddings is not None
            dimension, loops = probe.embeddings.shape[1], schedule.num_loops
            self.cea.prepare(self._head, dimension, self.accelerator, self.meter, loops, schedule.seed)
        if self.args.on_bad_sample == "raise" and not self._resume_folder:
            self._check_trainable(self._reselection.foreseen(schedule.num_loops))
        self._run = self._resumed(self._resume_folder) if self._resume_folder else RunState(self._identity())
        if "irreducible" in strategy.reads:
            # Of the model as the run begins, kept in its checkpoints.
            if "irreducible" not in self._run.strategy:
                self._run.strategy["irreducible"] = self._irreducible_losses()
            self._reselection.irreducible = self._run.strategy["irreducible"]
        if "mistaken" in strategy.reads:
            self._reselection.mistaken = self._run.strategy.get("mistaken")
        self._strategy_state()  # An error in it shows here, not when the first checkpoint is written.
        if self.args.should_save:
            claim(str(self.args.output_dir), self._run.run)

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must share with the one that wrote its checkpoint."""
        pool = pool_fingerprint(self._pool.dataset, self._pool.labels)
        augmentation = self.cea.identity() if self.cea else {"cea": None}
        identity = {**self._schedule.sizes(), "pool": pool, **self.args.identity(), **augmentation}
        # As a checkpoint gives it back, a tuple as a list.
        return json.loads(json.dumps(identity))

    def _run_state(self) -> RunState:
        assert self._run is not None
        run, step = self._run, self.state.global_step
        run.step, run.stopped = step, step >= self._schedule.total_updates or self._has_lost_patience()
        run.logged_step = self._globalstep_last_logged
        run.losses = self.accelerator.gather(self._tr_loss.detach().reshape(1)).tolist()
        run.cost, run.skipped = self.meter.state(), self._pool.ledger.failed
        run.augmentation = self.cea.state() if self.cea else {}
        run.strategy = self._strategy_state()
        kept = self._reselection.state(len(run.selections), self._schedule.num_loops)
        run.scores, run.training_losses = kept["scores"], kept["training_losses"]
        return run

    def _strategy_state(self) -> dict[str, Tensor]:
        assert self._run is not None
        if self._teaching.learner is not None:
            return self._teaching.state()
        state = self.args.strategy.state_dict() if hasattr(self.args.strategy, "state_dict") else self._run.strategy
        # A tensor of a Python number has half its digits unless told otherwise.
        return {
            name: torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else torch.as_tensor(value)
            for name, value in state.items()
        }

    def _resumed(self, folder: str) -> RunState:
        """The state in a checkpoint; meter, pool, strategy and augmentation go on from it."""
        run = RunState.load(folder, self._identity())
        if run.stopped:
            logger.warning("the run had ended at step %d, where the checkpoint was written: nothing is left", run.step)
        self.meter.load_state(run.cost)
        # With what was found broken since, when the run was probed.
        found = self._pool.ledger.failed
        self._pool.ledger.failed = {place: run.skipped.get(place, {}) | bad for place, bad in found.items()}
        self._unlogged = run.losses[self.args.process_index], run.logged_step
        if hasattr(self.args.strategy, "load_state_dict"):
            self.args.strategy.load_state_dict(run.strategy)
        self._teaching.load_state(run.strategy)
        self._reselection.rescoring.load_state(run.scores)
        if self._training_losses is not None and run.training_losses:
            self._training_losses.load_state(run.training_losses)
        if self.cea is not None:
            self.cea.load_state(run.augmentation)
        return run

    def _is_first_step(self, global_step: int) -> bool:
        return global_step % self._schedule.updates_per_loop == 0

    def _begin_loop(self) -> None:
        """Select for the loop that begins, or take up the one in which a checkpoint was written."""
        assert self._run is not None
        loop = self._schedule.loop_of(self.state.global_step)
        if loop == len(self._run.selections):
            self._select(self._run, loop)
        if self._unlogged is not None:
            # Trainer starts a resumed run's sum of losses at zero, and the next log would be of some of its steps.
            total, self._globalstep_last_logged = self._unlogged
            self._tr_loss.fill_(total)
            self._unlogged = None
        selection = self._run.selections[loop]
        check_same_selection(self.accelerator, selection, loop)
        self._sampler.stream = self._run.streams[loop]
        self._weights = None
        if selection.weights is None and self.args.sample_weights == "mass":
            raise ValueError(f"sample_weights='mass', and strategy {self.args.strategy!r} gives no weights")
        if selection.weights is not None:
            self._weights = torch.zeros(self._schedule.pool_size, device=self.args.device)
            self._weights[selection.indices.to(self.args.device)] = selection.weights.to(self.args.device)
        # Trainer reads it anew in each step: without weights the loss stays the model's own.
        self.compute_loss_func = self._unweighted_loss if self._weights is None else self._weighted_loss
        self.meter.start("train")

    def _end_loop(self) -> None:
        self.meter.stop()
        due = self.control.should_log
        self.log(self.meter.logs())
        # Trainer takes any log for the one that is due, that of the losses.
        self.control.should_log = due

    def _begin_second_training(self, run: RunState, loop: int) -> None:
        """Of Just Train Twice: what the first one gets wrong is found, and perhaps undone with all else."""
        kept, run.strategy = run.strategy, {"mistaken": self._reselection.find_mistakes(loop)}
        if self.args.jtt_restart:
            start_again(self.model, self.optimizer, kept)

    def _select(self, run: RunState, loop: int) -> None:
        schedule = self._schedule
        trains_twice = "mistaken" in find_strategy(self.args.strategy).reads
        if trains_twice and loop == second_training(schedule.num_loops):
            self._begin_second_training(run, loop)
        # At first all that the run would train on if it kept this selection, as `full` does.
        count = schedule.samples_per_loop * (schedule.num_loops if loop == 0 else 1)

        def is_trainable(selection: Selection) -> bool:
            stream = run.next_stream(selection, schedule.samples_per_loop)
            return self._check_trainable(stream.samples(count, schedule.seed))

        def trained(earlier: int) -> Tensor:
            return run.streams[earlier].samples(schedule.samples_per_loop, schedule.seed)

        progress = schedule.progress(loop)
        selection, candidates, figures = self._reselection.select(loop, progress, run.selections, trained, is_trainable)
        if loop == 0 and self._kept_scores is not None and self._kept_scores.hit is not None:
            figures["score_cache_hit"] = float(self._kept_scores.hit)
        record = record_loop(
            loop, self.state.global_step, selection, run.selections, candidates, self._pool.labels, figures
        )
        run.streams.append(run.next_stream(selection, schedule.samples_per_loop))
        run.selections.append(selection)
        run.records.append(record)
        if trains_twice and self.args.jtt_restart and loop == 0:
            # With a head that was fitted when the loop began.
            run.strategy = starting_weights(self.model)
        look = self._score if self._reselection.selects_later(loop + 1, schedule.num_loops) else None
        self._teaching.begin_loop(run.selections, self._pool.ledger.usable, look)
        self.log(record.logs())

    def _accumulated(self, num_items_in_batch: Any) -> int:
        """Micro-batches over which a training batch's loss is a mean when Trainer is given it: it then leaves it so."""
        over_all = self.compute_loss_func is not None or (
            self.model_accepts_loss_kwargs and num_items_in_batch is not None
        )
        return self.current_gradient_accumulation_steps if over_all else 1

    def _weighted_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """The objective per sample, recorded if needed, weighted and averaged: stands in for Trainer's
        `compute_loss_func`."""
        losses = self._objective.sample_losses(outputs, labels)
        weights = torch.ones_like(losses)
        if self._batch_indices is not None and self._weights is not None:
            weights = self._weights[self._batch_indices]
        if self._batch_indices is not None and self._training_losses is not None:
            self._training_losses.record(self._batch_indices, losses, self.state.global_step)
        return weighted_mean(losses, weights, labels, num_items_in_batch)
