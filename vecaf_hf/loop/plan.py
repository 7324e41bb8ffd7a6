"""What a run is made of before its first sample is loaded: `VeCAFTrainer` trains by it, `inspect` looks at it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.augmentation.callback import CEACallback
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.pool import Pool
from vecaf_hf.learners.teaching import Teaching
from vecaf_hf.loop.schedule import LoopSchedule
from vecaf_hf.loop.selector import Selector
from vecaf_hf.loop.state import pool_fingerprint
from vecaf_hf.scoring.classes import ModelClasses
from vecaf_hf.scoring.scorer import PROXY_WITHOUT_CLASSES, Scorer
from vecaf_hf.scoring.warmup import linear_of


@dataclass(frozen=True)
class Plan:
    """A run that has not begun.

    Args:
        args: Its options.
        schedule: Its sizes.
        scorer: Scores its pool.
        cea: Its augmentation, or None.
        teaching: What learns beside the model.
        classes: Of the model.
        held_out: Samples that the strategy fits a model of its own on, or None.
        eval_dataset: As Trainer takes it.
        work_before: What was done for the run before there was a trainer.
        batch_loss: (model, batch) -> the loss of a training batch, [].
        captions_pool: Whether a captioner captions samples in the run.
    """

    args: VeCAFArguments
    schedule: LoopSchedule
    scorer: Scorer
    cea: CEACallback | None
    teaching: Teaching
    classes: ModelClasses
    held_out: Pool | None
    eval_dataset: Any
    work_before: CostMeter
    batch_loss: Callable[[nn.Module, dict[str, Any]], Tensor]
    captions_pool: bool

    @property
    def pool(self) -> Pool:
        return self.scorer.pool

    @property
    def meter(self) -> CostMeter:
        return self.scorer.meter

    @property
    def num_classes(self) -> int:
        """C, as far as it is known."""
        return self.classes.count or len(self.classes.names)

    def check(self) -> None:
        """Whatever can be told before a sample is loaded.

        Raises:
            ValueError: What does not fit.
        """
        args, pool, scorer, classes = self.args, self.pool, self.scorer, self.classes
        self.teaching.make(scorer.model, self.schedule, self.meter)
        if args.head_warmup:
            linear_of(scorer.head)
        if "head" in scorer.strategy.reads:
            scorer.linear_head()
        if args.scoring_way[0] == "proxy" and not classes.may_be_single:
            raise ValueError(PROXY_WITHOUT_CLASSES)
        args.check_part_scored(len(pool))
        pool.check_classes(classes.names if classes.are_single else [], classes.count)
        if self.cea is not None:
            self.cea.read_captions(pool.dataset, pool.labels, classes.names)

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the one that wrote its checkpoint."""
        pool = pool_fingerprint(self.pool.dataset, self.pool.labels)
        augmentation = self.cea.identity() if self.cea else {"cea": None}
        identity = {**self.schedule.sizes(), "pool": pool, **self.args.identity(), **augmentation}
        # As a checkpoint gives it back, a tuple as a list.
        return json.loads(json.dumps(identity))

    def begin(self) -> Selector:
        """Whatever is wrong with data, model, objective, head or captions shows here, on a few samples.

        Returns:
            What will make the selections; nothing has been selected yet.

        Raises:
            ValueError: What is wrong.
        """
        scorer, strategy = self.scorer, self.scorer.strategy
        probe = scorer.probe()
        self.teaching.build()
        self.meter.forget_work()
        uses_labels = "labels" in (strategy.reads if probe.classes is not None else strategy.needs)
        if uses_labels and not strategy.needs_forward:
            self.pool.load_labels()
        selector = Selector(self.schedule.budget, scorer, self.cea)
        scorer.try_out(probe)
        if self.cea is not None:
            dimension = probe.given("embeddings").shape[1]
            loops, seed = self.schedule.num_loops, self.schedule.seed
            self.cea.prepare(scorer.head, dimension, scorer.accelerator, self.meter, loops, seed)
        return selector
