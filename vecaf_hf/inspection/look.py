"""A run's first selection and what its work costs here, without a run."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vecaf_hf.cost import FULL_SIZE, Work
from vecaf_hf.data.indexed import POOL_INDEX, UNFIT, UNLOADABLE, Draw
from vecaf_hf.inspection.budget import RunSizes, UnitCosts, scored_by_loop
from vecaf_hf.inspection.planned import Planned
from vecaf_hf.loop.plan import Plan
from vecaf_hf.loop.selector import Past
from vecaf_hf.loop.sharding import refuse_sharding, zero_stage
from vecaf_hf.scoring.forward_pass import Wanted
from vecaf_hf.scoring.rescoring import Boundary, Rescoring, part_of
from vecaf_hf.scoring.sharded import is_sharded
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import Selection
from vecaf_hf.selection.candidates import Candidates, evenly_spaced

# Samples that are scored for looking at where the strategy scores none.
LOOKED_AT = 2000
# Training batches that are timed, after one that is not.
TIMED_BATCHES = 3


@dataclass(frozen=True)
class Look:
    """What was found.

    Args:
        plan: Of the run; made apart from what the run itself will use.
        selection: Of the first loop; of a part of the candidates with a budget in proportion, where that is set.
        candidates: What was scored, in pool order, with plain embeddings.
        is_drawn: Which of them stand for the pool; the others were scored because they are selected. Bool [M].
        part: Candidates that the selection was made from, where these are fewer than the run's.
        scores: Whether the strategy itself scores the pool.
        sizes: For the budget.
        unit: For the budget.
    """

    plan: Plan
    selection: Selection
    candidates: Candidates
    is_drawn: Tensor
    part: int | None
    scores: bool
    sizes: RunSizes
    unit: UnitCosts


class _Part(Rescoring):
    """Some samples, once."""

    indices: Tensor

    def candidates(self, boundary: Boundary) -> Candidates:
        return boundary.score(self.indices)


def look(trainer: Planned, samples: int | None) -> Look:
    """Score, select once and time a few batches.

    Args:
        trainer: Whose run it is; it stays as it was.
        samples: Most samples to score for the selection; None for as many as the run does, or LOOKED_AT where it scores
            none.
    """
    plan = trainer.plan().apart()
    refuse_sharding(plan.scorer.accelerator, "inspect()")
    scores = _scores(plan)
    with plan.scorer.evaluated_weights(), untouched(plan):
        plan.scorer.look_at_embeddings("inspect()")
        try:
            selection, candidates, part = _first_selection(plan, scores, samples)
        finally:
            if plan.cea is not None:
                plan.cea.detach()
        is_drawn = torch.ones(len(candidates), dtype=torch.bool)
        if not scores:
            candidates, is_drawn = _scored_for_looking(plan, selection, samples or LOOKED_AT)
        unit = _unit_costs(plan, selection, trainer)
    cea, kept, strategy = trainer.cea, plan.scorer.kept, plan.scorer.strategy
    sizes = RunSizes(
        # The run's own selections, not one of a part.
        selected=len(selection) if part is None else plan.schedule.budget,
        evaluated=_evaluated(plan.eval_dataset),
        held_out=0 if plan.held_out is None else len(plan.held_out),
        has_cea=cea is not None,
        has_captioner=cea is not None and cea.captioner is not None,
        learns_map=cea is not None and cea.options.toward == "learned_difference",
        has_scores=not strategy.learns and kept is not None and kept.has_entry,
    )
    return Look(plan, selection, candidates, is_drawn, part, scores, sizes, unit)


def first_selection(plan: Plan) -> Selection:
    """What the run's first loop will train on, and nothing else is found out; the plan is made apart."""
    with plan.scorer.evaluated_weights(), untouched(plan):
        try:
            return _first_selection(plan, _scores(plan), None)[0]
        finally:
            if plan.cea is not None:
                plan.cea.detach()


def _scores(plan: Plan) -> bool:
    """Whether the first selection scores; a learner has learned nothing when the first loop begins: chance selects."""
    strategy = plan.scorer.strategy
    return strategy.needs_forward and not strategy.learns


@contextmanager
def untouched(plan: Plan) -> Iterator[None]:
    """Global generators and the model's mode are after the block what they were."""
    model, accelerator = plan.scorer.model, plan.scorer.accelerator
    device = accelerator.device
    if zero_stage(accelerator) is not None:
        # Before the training, Trainer has not put it where its inputs are.
        model.to(device)
    elif not is_sharded(model):
        # Nor is it, and it may have no weights.
        refuse_sharding(accelerator, "scoring before the training")
    training = model.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []), seeded(seed_of(plan.schedule.seed)):
        try:
            yield
        finally:
            model.train(training)


def _first_selection(plan: Plan, scores: bool, samples: int | None) -> tuple[Selection, Candidates, int | None]:
    """The run begun: the selection, its candidates, and how many these are where the run has more."""
    selector = plan.begin()
    pool, budget, part = plan.pool, plan.schedule.budget, None
    if not scores and plan.cea is not None and not plan.cea.has_affinity:
        # What nothing scores, CEA does not move, but it may weigh it; in training it is at work all the same.
        selector.cea = None
    selector.begin(plan.held_out, plan.num_classes)
    due = scored_by_loop(plan.args, plan.schedule, RunSizes(budget))[0]
    if scores and samples is not None and samples < due:
        part = samples
        selector.budget = max(1, round(budget * samples / due))
        selector.rescoring = _Part(pool, selector.budget, None)
        selector.rescoring.indices = _drawn(plan, samples)
    past = Past([], 0.0, lambda loop: torch.empty(0, dtype=torch.long))
    selection, candidates, _ = selector.select(past, lambda chosen: True)
    return selection, candidates.in_pool_order(), part


def _scored_for_looking(plan: Plan, selection: Selection, samples: int) -> tuple[Candidates, Tensor]:
    """A random part of the pool, and as many of the selected samples; which of them are the random part."""
    drawn = _drawn(plan, min(samples, len(plan.pool)))
    some = selection.indices[evenly_spaced(len(selection), samples)]
    candidates = plan.scorer.score(torch.cat([drawn, some]).unique())
    return candidates, torch.isin(candidates.indices, drawn)


def _drawn(plan: Plan, count: int) -> Tensor:
    """Random positions of the pool, as many of each class as its share, rising. LongTensor [count]."""
    part = part_of(plan.pool, torch.arange(len(plan.pool)), count, 0)
    # Shards have more.
    return part[evenly_spaced(len(part), count)]


def _evaluated(dataset: Any) -> int:
    """Samples of one evaluation; 0 where there is none, or its length is not known."""
    parts = dataset.values() if isinstance(dataset, dict) else [dataset]
    return sum(len(part) for part in parts if hasattr(part, "__len__"))


def _unit_costs(plan: Plan, selection: Selection, trainer: Planned) -> UnitCosts:
    """From what the meter has seen, and from a few batches."""
    args, scorer, work, flops = plan.args, plan.scorer, plan.meter.work, plan.meter.forward_flops
    size, world = args.scoring_image_size, plan.schedule.world_size
    some = plan.pool.some(torch.arange(len(plan.pool)), plan.pool.scoring_batch_size)
    if not work["score"].samples:
        # Scores that were kept took some to read.
        work["score"].seconds = 0.0
        scorer.score_at(some, Wanted(image_size=size))
    scoring = world * work["score"].seconds / work["score"].samples
    evaluating = scoring
    if size is not None or args.scoring_bf16:
        begun = time.perf_counter()
        scorer.score_at(some, Wanted(bf16=False))
        evaluating = world * (time.perf_counter() - begun) / len(some)
    return UnitCosts(
        forward_flops=flops[FULL_SIZE],
        scoring_flops=flops[FULL_SIZE if size is None else str(size)],
        score_seconds=scoring,
        evaluate_seconds=evaluating,
        train_seconds=_training_seconds(plan, selection, trainer),
        select=copy.copy(work["select"]),
        encode_text=copy.copy(work["encode_text"]) if plan.cea is not None else Work(),
        before=copy.deepcopy(trainer.work_before.work),
    )


def _training_seconds(plan: Plan, selection: Selection, trainer: Planned) -> float:
    """Per sample of a batch: loading, forward and backward pass of a copy of the model, in this process."""
    schedule, accelerator = plan.schedule, plan.scorer.accelerator
    count = (1 + TIMED_BATCHES) * schedule.batch_size
    indices = selection.indices.repeat(-(-count // len(selection)))[:count]
    loader = plan.pool.training_loader([Draw(index) for index in indices.tolist()], schedule.batch_size)
    model = copy.deepcopy(accelerator.unwrap_model(plan.scorer.model)).train()
    begun, trained = time.perf_counter(), 0
    for number, batch in enumerate(loader):
        present = len(batch.pop(POOL_INDEX))
        batch.pop(UNLOADABLE, None)
        # What is wrong with it is told when the run trains on it.
        if present and batch.pop(UNFIT, None) is None:
            trainer.batch_loss(model, batch).backward()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize(accelerator.device)
        if number == 0:
            begun = time.perf_counter()
        else:
            trained += present
    return (time.perf_counter() - begun) / max(1, trained)
