"""A run's first selection and what its work costs here, without a run: the trainer stays as it was."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vecaf_hf.augmentation import CEACallback
from vecaf_hf.cost import FULL_SIZE, CostMeter, Work
from vecaf_hf.data.indexed import POOL_INDEX, UNLOADABLE, Draw
from vecaf_hf.inspection.budget import RunSizes, UnitCosts, scored_by_loop
from vecaf_hf.learners.teaching import Teaching
from vecaf_hf.loop.schedule import LoopSchedule
from vecaf_hf.loop.selector import Reselection
from vecaf_hf.scoring.memory import FittingBatches
from vecaf_hf.scoring.rescoring import Boundary, Rescoring
from vecaf_hf.scoring.training_losses import TrainingLosses
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import Selection, find_strategy
from vecaf_hf.selection.candidate_set import candidate_set
from vecaf_hf.selection.candidates import Candidates, evenly_spaced

if TYPE_CHECKING:
    from vecaf_hf.trainer import VeCAFTrainer

# Samples that are scored for looking at where the strategy scores none.
LOOKED_AT = 2000
# Training batches that are timed, after one that is not.
TIMED_BATCHES = 3


@dataclass(frozen=True)
class Look:
    """What was found.

    Args:
        schedule: The run's sizes.
        selection: Of the first loop; of a part of the candidates with a budget in proportion, where that is set.
        candidates: What was scored, in pool order, with plain embeddings.
        is_drawn: Which of them stand for the pool; the others were scored because they are selected. Bool [M].
        part: Candidates that the selection was made from, where these are fewer than the run's.
        scores: Whether the strategy itself scores the pool.
        sizes: For the budget.
        unit: For the budget.
    """

    schedule: LoopSchedule
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


def look(trainer: VeCAFTrainer, samples: int | None) -> Look:
    """Score, select once and time a few batches.

    Args:
        trainer: With a training dataset; nothing of it changes.
        samples: Most samples to score for the selection; None for as many as the run does, or LOOKED_AT where it scores
            none.
    """
    twin, strategy = _twin(trainer), find_strategy(trainer.args.strategy)
    args, pool, schedule, meter = twin.args, twin._pool, twin._schedule, twin.meter
    # A learner has learned nothing when the first loop begins: chance selects.
    scores = (strategy.needs_forward and strategy.learner is None) or args.head_warmup
    with _untouched(twin, seed_of(schedule.seed)):
        probe = twin._probe(schedule.pool_size)
        meter.forget_work()
        if "labels" in strategy.reads and not strategy.needs_forward and probe.classes is not None:
            pool.load_labels()
        if twin.cea is not None:
            assert probe.embeddings is not None
            dimension, loops = probe.embeddings.shape[1], schedule.num_loops
            twin.cea.prepare(twin._head, dimension, twin.accelerator, meter, loops, schedule.seed)
        try:
            selection, candidates, part = _first_selection(twin, scores, samples)
        finally:
            if twin.cea is not None:
                # Takes its hook off the head.
                twin.cea.on_train_end(args, twin.state, twin.control)
        is_drawn = torch.ones(len(candidates), dtype=torch.bool)
        if not scores:
            candidates, is_drawn = _scored_for_looking(twin, selection, samples or LOOKED_AT)
        unit = _unit_costs(twin, selection)
    held_out = len(twin._held_out()) if "irreducible" in strategy.reads else 0
    # The run's own selections, not one of a part.
    selected = len(selection) if part is None else schedule.budget
    cea = trainer.cea
    sizes = RunSizes(
        selected,
        _evaluated(twin.eval_dataset),
        held_out,
        cea is not None,
        cea is not None and cea.captioner is not None,
        cea is not None and cea.options.toward == "learned_difference",
        strategy.learner is None and twin._kept_scores is not None and twin._kept_scores.has_entry,
    )
    return Look(schedule, selection, candidates, is_drawn, part, scores, sizes, unit)


def _twin(trainer: VeCAFTrainer) -> VeCAFTrainer:
    """A trainer with the same model and data, and of its own whatever a look changes."""
    twin = copy.copy(trainer)
    twin._pool = copy.copy(trainer._pool)
    twin._pool.forget_samples()
    twin.meter, twin._fitting = CostMeter(), FittingBatches()
    twin._teaching = Teaching(trainer.args, trainer.accelerator)
    twin._schedule = trainer._make_schedule()
    if trainer.cea is not None and trainer.cea.captioner is not None:
        # To caption the pool is to pay: the look is at plain embeddings.
        twin.cea = None
    elif trainer.cea is not None:
        twin.cea = CEACallback(trainer.cea.encoder, trainer.cea.captions, **vars(trainer.cea.options))
        twin.cea.read_captions(twin._pool.dataset, twin._pool.labels, twin.class_names)
    return twin


@contextmanager
def _untouched(twin: VeCAFTrainer, seed: int) -> Iterator[None]:
    """Global generators, the model's head (a warm-up fits it) and its mode are after the block what they were."""
    head, training = twin._head, twin.model.training
    before = {name: values.clone() for name, values in head.state_dict().items()}
    device = twin.accelerator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), seeded(seed):
        try:
            yield
        finally:
            head.load_state_dict(before)
            twin.model.train(training)


def _first_selection(twin: VeCAFTrainer, scores: bool, samples: int | None) -> tuple[Selection, Candidates, int | None]:
    """The selection, its candidates, and how many these are where the run has more."""
    args, pool, schedule = twin.args, twin._pool, twin._schedule
    strategy = find_strategy(args.strategy)
    reselection = Reselection(
        args=args,
        budget=schedule.budget,
        pool=pool,
        score=twin._score,
        head=twin._head,
        sample_loss=twin._objective.sample_losses,
        output_kind=twin._output_kind,
        training_losses=(TrainingLosses(len(pool), twin.accelerator) if "training_losses" in strategy.reads else None),
        # What nothing scores, CEA does not move, but it may weigh it; in training it is at work all the same.
        cea=twin.cea if scores or (twin.cea is not None and twin.cea.has_affinity) else None,
        meter=twin.meter,
        accelerator=twin.accelerator,
    )
    if "irreducible" in strategy.reads:
        reselection.irreducible = twin._irreducible_losses()
    due = scored_by_loop(args, schedule, RunSizes(schedule.budget))[0]
    part = None
    if scores and samples is not None and samples < due:
        part = samples
        reselection.budget = max(1, round(schedule.budget * samples / due))
        reselection.rescoring = _Part(pool, reselection.budget, None)
        reselection.rescoring.indices = _drawn(twin, samples)
    nothing = torch.empty(0, dtype=torch.long)
    selection, candidates, _ = reselection.select(0, 0.0, [], lambda loop: nothing, lambda chosen: True)
    return selection, candidates.in_pool_order(), part


def _scored_for_looking(twin: VeCAFTrainer, selection: Selection, samples: int) -> tuple[Candidates, Tensor]:
    """A random part of the pool, and as many of the selected samples; which of them are the random part."""
    drawn = _drawn(twin, min(samples, len(twin._pool)))
    some = selection.indices[evenly_spaced(len(selection), samples)]
    candidates = twin._score(torch.cat([drawn, some]).unique())
    return candidates, torch.isin(candidates.indices, drawn)


def _drawn(twin: VeCAFTrainer, count: int) -> Tensor:
    """Random positions of the pool, as many of each class as its share, rising. LongTensor [count]."""
    generator = torch.Generator().manual_seed(seed_of(twin._schedule.seed, 0))
    return candidate_set(len(twin._pool), count, twin._pool.labels, generator)


def _evaluated(dataset: Any) -> int:
    """Samples of one evaluation; 0 where there is none, or its length is not known."""
    parts = dataset.values() if isinstance(dataset, dict) else [dataset]
    return sum(len(part) for part in parts if hasattr(part, "__len__"))


def _unit_costs(twin: VeCAFTrainer, selection: Selection) -> UnitCosts:
    """From what the meter has seen, and from a few batches."""
    args, work, flops = twin.args, twin.meter.work, twin.meter.forward_flops
    size, world = args.scoring_image_size, twin._schedule.world_size
    some = evenly_spaced(len(twin._pool), args.scoring_batch_size or args.eval_batch_size)
    if not work["score"].samples:
        # Scores that were kept took some to read.
        work["score"].seconds = 0.0
        twin._score_at(some, size, twin._pool)
    scoring = world * work["score"].seconds / work["score"].samples
    evaluating = scoring
    if size is not None:
        begun = time.perf_counter()
        twin._score_at(some, None, twin._pool)
        evaluating = world * (time.perf_counter() - begun) / len(some)
    return UnitCosts(
        forward_flops=flops[FULL_SIZE],
        scoring_flops=flops[FULL_SIZE if size is None else str(size)],
        score_seconds=scoring,
        evaluate_seconds=evaluating,
        train_seconds=_training_seconds(twin, selection),
        select=copy.copy(work["select"]),
        encode_text=copy.copy(work["encode_text"]) if twin.cea is not None else Work(),
        before=copy.deepcopy(twin.work_before.work),
    )


def _training_seconds(twin: VeCAFTrainer, selection: Selection) -> float:
    """Per sample of a batch: loading, forward and backward pass of a copy of the model, in this process."""
    schedule, device = twin._schedule, twin.accelerator.device
    count = (1 + TIMED_BATCHES) * schedule.batch_size
    indices = selection.indices.repeat(-(-count // len(selection)))[:count]
    loader = twin._pool.training_loader([Draw(index) for index in indices.tolist()], schedule.batch_size)
    model = copy.deepcopy(twin.accelerator.unwrap_model(twin.model)).train()
    begun, trained = time.perf_counter(), 0
    for number, batch in enumerate(loader):
        present = len(batch.pop(POOL_INDEX))
        batch.pop(UNLOADABLE, None)
        if present:
            with twin.compute_loss_context_manager():
                loss: Any = twin.compute_loss(model, twin._prepare_inputs(batch))
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number == 0:
            begun = time.perf_counter()
        else:
            trained += present
    return (time.perf_counter() - begun) / max(1, trained)
