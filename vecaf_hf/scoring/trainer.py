"""A Trainer that scores samples: by the run's own objective, with the embeddings that enter the model's head."""

from __future__ import annotations

from functools import partial
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vecaf_hf.agreement import decided_by_main
from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.checkpoint.trainer import ResumingTrainer
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.pool import Collator, Pool
from vecaf_hf.learners.teaching import Teaching
from vecaf_hf.loop.selector import some
from vecaf_hf.scoring.irreducible import irreducible_losses
from vecaf_hf.scoring.kept_scores import KeptScores
from vecaf_hf.scoring.losses import SampleLoss
from vecaf_hf.scoring.memory import FittingBatches
from vecaf_hf.scoring.objective import find_objective
from vecaf_hf.scoring.scorer import PoolScorer
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import find_strategy
from vecaf_hf.selection.candidates import Candidates, evenly_spaced
from vecaf_hf.selection.jtt import mistakes

# Samples that a run tries before it trains.
PROBED_SAMPLES = 16
NO_CLASSES = "{} needs one class per sample: {}"
PROXY_WITHOUT_CLASSES = NO_CLASSES.format('rescore="proxy"', 'choose rescore="stale" or "full"')


class ScoringTrainer(ResumingTrainer):
    """What a selection is made from.

    Args:
        sample_loss_func: The objective per sample, (outputs, labels) -> Tensor [N], if it is not Trainer's.
        work_before: What was done for the run before there was a trainer, if anything.
    """

    args: VeCAFArguments
    _pool: Pool
    _head: nn.Module
    _kept_scores: KeptScores | None = None

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None,
        args: VeCAFArguments,
        sample_loss_func: SampleLoss | None,
        work_before: CostMeter | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, **kwargs)
        self.label_name = self.label_names[0] if self.label_names else "labels"
        self.meter = CostMeter()
        self.work_before = work_before or CostMeter()
        self._objective = find_objective(
            sample_loss_func,
            self.compute_loss_func,
            getattr(getattr(self.model, "config", None), "problem_type", None),
            args.label_smoothing_factor,
        )
        self._custom_objective = sample_loss_func is not None or self.compute_loss_func is not None
        self._output_kind = "ModelOutput"
        self._fitting = FittingBatches()
        self._teaching = Teaching(args, self.accelerator)

    @property
    def class_names(self) -> list[str]:
        """Names of the model's classes, in the order of its logits."""
        names = getattr(getattr(self.model, "config", None), "id2label", None) or {}
        return [str(names[index]) for index in sorted(names)]

    @property
    def _classes(self) -> list[str]:
        """The names of the classes, where each sample has one; else none."""
        problem = getattr(getattr(self.model, "config", None), "problem_type", None)
        return self.class_names if problem in (None, "single_label_classification") else []

    @property
    def _has_classes(self) -> bool:
        """Whether each sample may have one class, as far as that can be told without loading any."""
        config = getattr(self.model, "config", None)
        if getattr(config, "problem_type", None) not in (None, "single_label_classification"):
            return False
        return self._custom_objective or getattr(config, "num_labels", None) != 1

    @property
    def _num_classes(self) -> int | None:
        """C, where each sample is to have one class; None where that cannot be told."""
        if self._custom_objective:
            return None
        has_config = hasattr(self.model, "config")
        count = len(self._classes) if has_config else getattr(self._head, "out_features", 0)
        return count if count > 1 else None

    def _make_pool(self, dataset: Any, scoring_dataset: Any = None) -> Pool:
        prepare = self._without_unused_columns
        return Pool(dataset, scoring_dataset, self.args, prepare, self.label_name, self.accelerator)

    def _held_out(self) -> Pool:
        """The samples that a strategy fits a model of its own on."""
        if isinstance(self.eval_dataset, dict) or not hasattr(self.eval_dataset, "__len__"):
            raise ValueError(
                f"strategy {self.args.strategy!r} fits a small model on held-out samples: pass one map-style "
                f"eval_dataset, not {type(self.eval_dataset).__name__}"
            )
        held_out = self._make_pool(self.eval_dataset)
        held_out.check_classes([], self._num_classes)
        return held_out

    def _probe(self, pool_size: int) -> Candidates:
        """A few samples through collator, model, head and loss: whatever is wrong with them shows before training."""
        self._pool.forget_samples()
        indices = evenly_spaced(pool_size, PROBED_SAMPLES)
        if self._pool.scoring_dataset is not self._pool.dataset:
            self._check_trainable(indices)
        # At full size too: these forwards, which are not counted, tell what training and evaluation cost.
        probe = some(self._score_at(indices, None, self._pool))
        if self.args.scoring_image_size is not None:
            probe = some(self._score_at(indices, self.args.scoring_image_size, self._pool, image_size_is_new=True))
        self._pool.check_column(probe)
        if probe.classes is None and self.args.head_warmup:
            raise ValueError(NO_CLASSES.format("head_warmup", "leave head_warmup off"))
        if probe.classes is None and self.args.scoring_way[0] == "proxy":
            raise ValueError(PROXY_WITHOUT_CLASSES)
        if "mistaken" in find_strategy(self.args.strategy).reads:
            mistakes(probe)
        self._kept_scores = None if self.args.score_cache is None else self._make_kept_scores(probe)
        return probe

    def _make_kept_scores(self, probe: Candidates) -> KeptScores:
        assert self.args.score_cache is not None
        size, pool = self.args.scoring_image_size, self._pool
        return KeptScores(
            folder=self.args.score_cache,
            pool=pool,
            model=self.model,
            head=self._head,
            image_size=size,
            score=lambda indices: self._score_at(indices, size, pool),
            sample_loss=self._objective.sample_losses,
            output_kind=self._output_kind,
            keep_logits=self._keeps_logits,
            probe=probe,
            meter=self.meter,
            accelerator=self.accelerator,
        )

    @property
    def _keeps_logits(self) -> bool:
        return bool(find_strategy(self.args.strategy).reads & {"logits", "mistaken"})

    def _score(self, indices: Tensor, samples: Pool | None = None) -> Candidates:
        """Embeddings, losses, logits and labels of these samples, the pool's unless told otherwise, under the current
        model, as the run scores them."""
        # What a learner observes, and what a trained model thinks, no folder has.
        if samples is None and self.state.global_step == 0 and self._teaching.learner is None and self._kept_scores:
            return self._kept_scores.score(indices)
        return self._score_at(indices, self.args.scoring_image_size, samples or self._pool)

    def _score_at(
        self, indices: Tensor, image_size: int | None, pool: Pool, image_size_is_new: bool = False
    ) -> Candidates:
        scorer = PoolScorer(
            accelerator=self.accelerator,
            objective=self._objective,
            load=pool.batches,
            note_scored=pool.note_scored,
            label_name=self.label_name,
            meter=self.meter,
            keep_logits=self._keeps_logits,
            disable_tqdm=bool(self.args.disable_tqdm) or not self.accelerator.is_local_main_process,
            image_size=image_size,
            image_size_is_new=image_size_is_new,
            fitting=self._fitting,
            observed=self._teaching.observed,
        )
        self._teaching.before_scoring()
        scored = scorer.score(self.model, self._head, indices)
        self._output_kind = scorer.output_kind or self._output_kind
        return scored

    def _check_trainable(self, indices: Tensor) -> bool:
        """`Pool.check_trainable`, timed: the price of a selection too."""
        with self.meter.timed("score"):
            return self._pool.check_trainable(indices)

    def _without_unused_columns(self, dataset: Any) -> tuple[Any, Collator]:
        """The dataset and its collator, as Trainer's own loaders have them."""
        if isinstance(dataset, datasets.Dataset):
            return self._remove_unused_columns(dataset, description="training"), self.data_collator
        return dataset, self._get_collator_with_removed_columns(self.data_collator, description="training")

    def _irreducible_losses(self) -> Tensor:
        """Of each sample of the pool; NaN where it cannot be loaded. [N]."""
        pool, held_out = self._pool, self._held_out()
        # Transforms may draw from the global generators: not at the training's expense.
        with seeded(seed_of(pool.seed)):
            known = self._score(torch.arange(len(held_out)), held_out)
            scored = self._score(torch.arange(len(pool)))
        count = self._num_classes or len(self.class_names)
        sample_losses, kind = self._objective.sample_losses, self._output_kind
        fit = partial(irreducible_losses, known, scored, sample_losses, count, kind)
        with self.meter.timed("select"):
            losses, flops = decided_by_main(self.accelerator, fit)
        self.meter.add("select", flops=flops)
        return losses.new_full((len(pool),), torch.nan).index_copy(0, scored.indices, losses)
