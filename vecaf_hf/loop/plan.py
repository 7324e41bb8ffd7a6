"""What a run is made of, and how it begins: `VeCAFTrainer` trains by a plan, `inspect` looks at one."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from accelerate import Accelerator

from vecaf_hf.arguments import VeCAFArguments, without_classes
from vecaf_hf.augmentation.callback import CEACallback
from vecaf_hf.augmentation.running import RunningCEA
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.labels import described
from vecaf_hf.data.pool import Pool
from vecaf_hf.learners.teaching import Teaching
from vecaf_hf.loop.class_shares import check_correctable
from vecaf_hf.loop.controller import LoopController
from vecaf_hf.loop.divergence import tell_of_half_precision
from vecaf_hf.loop.schedule import LoopSchedule
from vecaf_hf.loop.selector import Selector
from vecaf_hf.loop.sharding import check_model, check_sharding, check_strategy, sharding_of
from vecaf_hf.loop.state import RunState, pool_fingerprint
from vecaf_hf.loop.threads import use_all_cores
from vecaf_hf.scoring.classes import ModelClasses, problem_type_kept
from vecaf_hf.scoring.head import find_head
from vecaf_hf.scoring.precision import check_bf16
from vecaf_hf.scoring.scorer import PROXY_WITHOUT_CLASSES, Scorer
from vecaf_hf.selection import find_strategy
from vecaf_hf.selection.candidates import Candidates

# Variables in which launchers say how many processes there are.
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Plan:
    """A run that has not begun.

    Args:
        schedule: Its sizes.
        scorer: Scores its pool, whose `args` are its options.
        cea: Its augmentation, or None.
        teaching: What learns beside the model.
        classes: Of the model.
        held_out: Samples that the strategy fits a model of its own on, or None.
        eval_dataset: As Trainer takes it.
    """

    schedule: LoopSchedule
    scorer: Scorer
    cea: CEACallback | None
    teaching: Teaching
    classes: ModelClasses
    held_out: Pool | None
    eval_dataset: Any

    @property
    def args(self) -> VeCAFArguments:
        return self.scorer.args

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

    def apart(self) -> Plan:
        """The same with ledger, counters and captions of its own, to look and change nothing."""
        pool, scorer = copy.copy(self.pool), self.scorer
        pool.forget_samples()
        teaching = Teaching(self.args, scorer.accelerator)
        cea = self.cea and self.cea.apart(pool.dataset, pool.labels, self.classes.names)
        own = Scorer(pool, scorer.model, cea is not None, scorer.objective, CostMeter(), teaching)
        own.is_trained, own.evaluated_weights = scorer.is_trained, scorer.evaluated_weights
        return replace(self, scorer=own, cea=cea, teaching=teaching)

    def check(self) -> None:
        """Whatever can be told before a sample is loaded.

        Raises:
            ValueError: What does not fit.
        """
        args, pool, scorer, classes = self.args, self.pool, self.scorer, self.classes
        args.check_loops(self.schedule.num_loops)
        self.schedule.check_loops(args.num_loops)
        tell_of_half_precision(self.scorer.model)
        if args.correct_class_shares:
            check_correctable(
                find_head(scorer.model, args.head), pool.labels, scorer.objective.sample_weights is not None
            )
        check_model(scorer.model, scorer.accelerator)
        check_strategy(args, scorer.accelerator)
        self.teaching.make(scorer.model, self.schedule, self.meter)
        if scorer.head_of_model.found is not None:
            scorer.check_head()
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
        sizes = {**self.schedule.sizes(), "samples_per_loop": self.schedule.samples_per_loop}
        # Trainer writes other files then.
        sharding = sharding_of(self.scorer.accelerator)
        identity = {**sizes, "pool": pool, **self.args.identity(), **augmentation, **sharding}
        # As a checkpoint gives it back, a tuple as a list.
        return json.loads(json.dumps(identity))

    @property
    def may_differ(self) -> set[str]:
        """What of the identity a resumed run need not share, since nothing is selected or trained by it."""
        free = {"batch_size", "gradient_accumulation_steps", "batches_short", "updates_per_epoch"}
        strategy, rescore = self.scorer.strategy, self.args.scoring_way[0]
        by_length = strategy.reads & {"progress", "mistaken", "training_losses"} or strategy.learns or self.cea
        # What a checkpoint of a run's last loop leaves out.
        keeps = strategy.needs_forward and rescore in ("stale", "proxy")
        return free if by_length or keeps else free | {"total_updates", "num_loops"}

    def begin(self) -> Selector:
        """Whatever is wrong with data, model, objective, head or captions shows here, on a few samples.

        Returns:
            What will make the selections; nothing has been selected yet.

        Raises:
            ValueError: What is wrong.
        """
        scorer, strategy = self.scorer, self.scorer.strategy
        scores = strategy.needs_forward or "mistaken" in strategy.reads
        if scores or self.cea is not None:
            self.pool.check_collator()
        with problem_type_kept(scorer.model):
            probe = scorer.probe()
        if scorer.objective.is_smoothed and probe.labels is not None and probe.labels.is_floating_point():
            raise ValueError(
                f"label_smoothing_factor is {self.args.label_smoothing_factor}, and labels are "
                f"{described(probe.labels)}: Trainer smooths whole-number labels alone. Leave it at 0, and smooth them "
                "in sample_loss_func: lambda outputs, labels: cross_entropy(outputs.logits, labels, "
                'label_smoothing=0.1, reduction="none")'
            )
        if probe.classes is None and self.pool.labels is None:
            labels = probe.labels
            found = "not one per sample" if labels is None else described(labels)
            scorer.go_by(without_classes(self.args, f"labels are {found}"))
            strategy = scorer.strategy
        self.teaching.build()
        self.meter.forget_work()
        uses_labels = "labels" in (strategy.reads if probe.classes is not None else strategy.needs)
        if uses_labels and not strategy.needs_forward:
            self.pool.load_labels()
        scorer.try_out(probe)
        return Selector(self.schedule.budget, scorer, self._begin_cea(probe))

    def _begin_cea(self, probe: Candidates) -> RunningCEA | None:
        if self.cea is None:
            return None
        if not self.scorer.head_of_model.takes_one:
            model = type(self.scorer.model).__name__
            raise ValueError(
                f"CEA moves the one embedding that enters a head, and {model} has two heads, or one that is given all "
                "tokens: leave CEA out"
            )
        schedule, scorer, dimension = self.schedule, self.scorer, probe.given("embeddings").shape[1]
        return self.cea.prepare(
            scorer.head, dimension, scorer.accelerator, self.meter, schedule.num_loops, schedule.seed
        )


def begin_run(
    plan: Plan,
    checkpoint: str | None,
    work_before: CostMeter,
    log: Callable[[dict[str, float]], None],
    loop_begun: Callable[[], None],
) -> LoopController:
    """Begin a run as planned, or go on with that of a checkpoint.

    Args:
        plan: Of the run.
        checkpoint: The folder of a whole checkpoint; None to begin at the beginning.
        work_before: What was done for the run before there was a trainer.
        log: Writes a line of the log.
        loop_begun: Called when a loop has begun or was taken up.

    Raises:
        ValueError: Something is wrong with data, model or captions, or the checkpoint is of another run.
    """
    scorer, schedule = plan.scorer, plan.schedule
    if scorer.accelerator.device.type == "cpu":
        use_all_cores()
    plan.teaching.begin(scorer.model, schedule, plan.meter)
    # A checkpoint is of a run whose objective was accepted.
    scorer.objective.is_accepted |= bool(checkpoint)
    selector = plan.begin()
    plan.meter.add_work(work_before)
    if plan.args.on_bad_sample == "check" and not checkpoint:
        scorer.check_trainable(selector.foreseen(schedule.num_loops))
    identity = plan.identity()
    history = RunState.load(checkpoint, identity, plan.may_differ) if checkpoint else RunState(identity)
    loop = LoopController(schedule, selector, plan.teaching, history, log, loop_begun)
    if checkpoint:
        loop.go_on()
    else:
        selector.begin(plan.held_out, plan.num_classes)
    # An error in a strategy's own state shows here, not when the first checkpoint is written.
    selector.state_dict()
    return loop


def held_out_pool(
    args: VeCAFArguments, eval_dataset: Any, make_pool: Callable[[Any], Pool], num_classes: int | None
) -> Pool | None:
    """The samples that the strategy fits a model of its own on, or None.

    Raises:
        ValueError: It needs some, and there is no one map-style evaluation dataset.
    """
    if "irreducible" not in find_strategy(args.strategy).reads:
        return None
    if isinstance(eval_dataset, dict) or not hasattr(eval_dataset, "__len__"):
        raise ValueError(
            f"strategy {args.strategy!r} fits a small model on held-out samples: pass one map-style eval_dataset, not "
            f"{type(eval_dataset).__name__}"
        )
    held_out = make_pool(eval_dataset)
    held_out.check_classes([], num_classes)
    return held_out


def check_devices(args: VeCAFArguments, accelerator: Accelerator) -> None:
    """Raise a ValueError if the model is to be sharded or to score in a way that is not supported, one process has
    several GPUs, or each of several takes itself for the only one."""
    # The names by which accelerate (1.15) and mpirun's kinds know a launch; without a GPU and without use_cpu=True,
    # torchrun's or accelerate's processes do not meet: each trains on everything and writes the same folder.
    launched = {name: int(os.environ.get(name) or 1) for name in WORLD_SIZES}
    name, world = max(launched.items(), key=lambda item: item[1])
    if world > args.world_size:
        raise ValueError(
            f"{name} says that {world} processes were launched, and this one knows of {args.world_size}: each would "
            "train on everything and write the same folder. On CPUs set use_cpu=True (accelerate launch --cpu starts "
            f"only one); for runs that are to be apart, unset {name}"
        )
    check_sharding(args, accelerator)
    if args.scoring_bf16:
        check_bf16(accelerator)
    if args.n_gpu > 1:
        raise ValueError(
            f"one process sees {args.n_gpu} GPUs: start one process per GPU with `accelerate launch`, or choose one "
            "with CUDA_VISIBLE_DEVICES"
        )
