"""What a run will cost, loop by loop, before it is started: its own schedule and what one sample of each kind of work
costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from transformers.trainer_utils import IntervalStrategy

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.cost import KINDS, TRAINING_FACTOR, Work
from vecaf_hf.loop.schedule import LoopSchedule
from vecaf_hf.scoring.rescoring import RESCORING
from vecaf_hf.selection import STRATEGIES, find_strategy
from vecaf_hf.selection.jtt import second_training

# Kinds of work that plain finetuning has too.
PLAIN = ("train", "evaluate")


@dataclass(frozen=True)
class UnitCosts:
    """What work costs here, per sample.

    Args:
        forward_flops: A forward pass.
        scoring_flops: A forward pass at the size of images that is scored.
        score_seconds: Loading a sample and scoring it, in one process.
        evaluate_seconds: Loading a sample and its forward pass, in one process.
        train_seconds: Loading a sample, its forward and its backward pass, in one process.
        select: One selection, as the first one went.
        encode_text: All captions; what the cache holds costs nothing.
        before: What was done before there was a trainer, by kind.
    """

    forward_flops: float
    scoring_flops: float
    score_seconds: float
    evaluate_seconds: float
    train_seconds: float
    select: Work = field(default_factory=Work)
    encode_text: Work = field(default_factory=Work)
    before: Mapping[str, Work] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSizes:
    """What the schedule does not know.

    Args:
        selected: Samples in the first selection.
        evaluated: Samples of one evaluation.
        held_out: Samples that a strategy fits a model of its own on.
        has_cea: Whether embeddings are augmented.
        has_captioner: Whether their captions are made in the run.
        learns_map: Whether they are moved by a network that learns at each boundary.
        has_scores: Whether the untrained model's scores of the pool lie in `score_cache`.
    """

    selected: int
    evaluated: int = 0
    held_out: int = 0
    has_cea: bool = False
    has_captioner: bool = False
    learns_map: bool = False
    has_scores: bool = False


@dataclass(frozen=True)
class Budget:
    """Work by kind, of every loop.

    Args:
        loops: One dictionary a loop, kind -> work.
        plain: The same batches and evaluations without a selection.
        notes: What could not be foreseen.
    """

    loops: tuple[dict[str, Work], ...]
    plain: dict[str, Work]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> dict[str, Work]:
        """Of all loops."""
        return {kind: summed(loop[kind] for loop in self.loops) for kind in KINDS}

    @property
    def forwards(self) -> int:
        """Samples that pass the model for the selection's sake."""
        return self.total["score"].samples

    def share(self, of: str) -> float:
        """`extra_share` of all loops."""
        return extra_share(self.total, of)


def summed(works: Iterable[Work]) -> Work:
    """The sum of some work."""
    found = list(works)
    return Work(
        sum(work.samples for work in found), sum(work.flops for work in found), sum(work.seconds for work in found)
    )


def extra_share(work: Mapping[str, Work], of: str) -> float:
    """The part of some `flops` or `seconds` that plain finetuning would not have; 0 where nothing counts."""
    everything = sum(getattr(one, of) for one in work.values())
    extra = sum(getattr(one, of) for kind, one in work.items() if kind not in PLAIN)
    return extra / everything if everything else 0.0


def foreseen(args: VeCAFArguments, schedule: LoopSchedule, sizes: RunSizes, unit: UnitCosts) -> Budget:
    """The budget of a run: samples and FLOPs of `score`, `train` and `evaluate` as its meter will count them."""
    scored, world = scored_by_loop(args, schedule, sizes), schedule.world_size
    evaluations = evaluation_steps(args, schedule)
    loops = []
    for loop in range(schedule.num_loops):
        begin = loop * schedule.updates_per_loop
        end = min(begin + schedule.updates_per_loop, schedule.total_updates)
        trained = min((end - begin) * schedule.samples_per_update, schedule.samples_per_loop)
        # An evaluation belongs to the loop whose steps it comes after; the one before all to the first.
        times = sum(begin < step <= end or step == loop == 0 for step in evaluations)
        # Every process scores the same number of samples.
        passes = -(-scored[loop] // world) * world
        loops.append(
            {kind: Work() for kind in KINDS}
            | {
                "score": Work(passes, passes * unit.scoring_flops, passes / world * unit.score_seconds),
                "select": unit.select if selects(args, loop) else Work(),
                "encode_text": unit.encode_text if loop == 0 else Work(),
                "train": _trained(trained, world, unit),
                "evaluate": _evaluated(times * sizes.evaluated, world, unit),
            }
        )
    # As the meter does, which has it when the run begins.
    loops[0] |= {kind: summed([loops[0][kind], work]) for kind, work in unit.before.items()}
    plain = {kind: summed(loop[kind] for loop in loops) for kind in PLAIN}
    return Budget(tuple(loops), plain, notes=_unforeseen(args, sizes))


def selects(args: VeCAFArguments, loop: int) -> bool:
    """Whether a loop begins with a selection of its own."""
    return loop == 0 or not args.single_run


def scored_by_loop(args: VeCAFArguments, schedule: LoopSchedule, sizes: RunSizes) -> list[int]:
    """Samples that are scored when each loop begins, by one process in all."""
    strategy, pool = find_strategy(args.strategy), schedule.pool_size
    way, fraction = args.scoring_of(pool)
    counts = []
    for loop in range(schedule.num_loops):
        twice = "mistaken" in strategy.reads and loop >= second_training(schedule.num_loops)
        # In the first loop a learner has learned nothing: chance selects.
        acting = STRATEGIES["random"] if strategy.learns and loop == 0 else strategy
        if selects(args, loop) and acting.needs_forward:
            scored = RESCORING[way].scored_later if loop else RESCORING[way].scored_first
            counts.append(scored(pool, fraction))
        else:
            # CEA needs the embeddings of what it augments.
            selected = schedule.budget if twice else sizes.selected
            counts.append(selected if sizes.has_cea else 0)
        if twice and loop == second_training(schedule.num_loops):
            counts[loop] += pool
    if sizes.has_scores and counts[0] == pool:
        counts[0] = 0
    if "irreducible" in strategy.reads:
        counts[0] += sizes.held_out + (0 if sizes.has_scores else pool)
    return counts


def evaluation_steps(args: VeCAFArguments, schedule: LoopSchedule) -> list[int]:
    """Optimizer steps after which Trainer evaluates, 0 for before the first."""
    total, each = schedule.total_updates, schedule.updates_per_loop
    steps = [0] if args.eval_on_start else []
    if args.eval_strategy == IntervalStrategy.EPOCH:
        ends = [min(end, total) for end in range(each, total + each, each)]
        steps += [end for end in ends if args.eval_delay <= schedule.epoch_of(end)]
    if args.eval_strategy == IntervalStrategy.STEPS:
        # As for Trainer, a number below 1 is a part of the run; the last step always counts.
        asked = float(args.eval_steps or total)
        every = math.ceil(total * asked) if asked < 1 else int(asked)
        steps += [step for step in sorted({*range(every, total + 1, every), total}) if args.eval_delay <= step]
    return steps


def _trained(samples: int, world: int, unit: UnitCosts) -> Work:
    return Work(samples, TRAINING_FACTOR * samples * unit.forward_flops, samples / world * unit.train_seconds)


def _evaluated(samples: int, world: int, unit: UnitCosts) -> Work:
    return Work(samples, samples * unit.forward_flops, samples / world * unit.evaluate_seconds)


def _unforeseen(args: VeCAFArguments, sizes: RunSizes) -> tuple[str, ...]:
    strategy = find_strategy(args.strategy)
    notes = ["Each selection is taken to cost what the first one did. What stops a run early is not foreseen."]
    if sizes.has_captioner:
        notes.append(
            "What the captioner and its captions cost is not in it; the selection here is of plain embeddings."
        )
    if strategy.learns:
        notes.append("What the strategy's own networks cost, and what they look at, cannot be told before they learn.")
    if sizes.learns_map:
        notes.append('What the network of toward="learned_difference" costs, in training and in use, is not in it.')
    if args.scoring_way[0] == "proxy" and strategy.needs_forward:
        notes.append("The probe's fits at later boundaries are not in it; they take no forward pass.")
    if strategy.size == "own":
        notes.append("The strategy itself decides how much it selects: later loops may select less than the first.")
    return tuple(notes)
