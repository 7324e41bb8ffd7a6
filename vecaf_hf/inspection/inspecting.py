"""From a look at a run to all that is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vecaf_hf.inspection.budget import foreseen
from vecaf_hf.inspection.duplicates import NearDuplicates, near_duplicates
from vecaf_hf.inspection.embedding_map import OTHERS, OURS, EmbeddingMap, embedding_map
from vecaf_hf.inspection.extremes import CENTROID, Extremes, extremes, similarity_to_means
from vecaf_hf.inspection.inspection import Inspection, Sample
from vecaf_hf.inspection.look import Look, look
from vecaf_hf.inspection.out_of_fold import OutOfFold, out_of_fold, suspicious_labels
from vecaf_hf.inspection.page import write_inspection
from vecaf_hf.inspection.planned import Planned
from vecaf_hf.inspection.shares import ClassShare, Histogram, class_shares, loss_histogram
from vecaf_hf.loop.plan import Plan
from vecaf_hf.reporting.images import images_of
from vecaf_hf.seeding import seed_of
from vecaf_hf.selection import STRATEGIES, Selection, run_strategy
from vecaf_hf.selection.candidates import Candidates, evenly_spaced
from vecaf_hf.selection.ods import replace_options
from vecaf_hf.text.captions import Caption, find_captions
from vecaf_hf.validation import whole

# Most candidates that ActiveFT selects from, to compare with: its whole pool would take as long as a selection does.
COMPARED = 20_000
# Most selected samples that are compared with each other.
MOST_COMPARED = 20_000


def inspect(trainer: Planned, folder: str | Path | None = None, samples: int | None = None) -> Inspection:
    """Look at a trainer's run before it is started; it stays as it was.

    With CEA, captions that it encodes are then in the text encoder's cache.

    Args:
        trainer: With a training dataset.
        folder: Where a page, its pictures and the figures as JSON are written; nowhere if None.
        samples: Most samples to score; None for as many as the run's first loop does.

    Raises:
        ValueError: There is no training dataset, or what a run would raise before its first step.
    """
    if trainer.train_dataset is None:
        raise ValueError("there is nothing to inspect without a train_dataset")
    if samples is not None:
        whole("samples", samples, 2)
    seen = look(trainer, samples)
    inspection = _inspection(seen)
    if folder is not None and seen.plan.scorer.accelerator.is_main_process:
        write_inspection(inspection, images_of(trainer.train_dataset), Path(folder))
    return inspection


def _inspection(seen: Look) -> Inspection:
    candidates, selection, plan = seen.candidates, seen.selection, seen.plan
    schedule = plan.schedule
    names, labels = plan.classes.names, plan.pool.labels
    # Whose default may have given way to random.
    args = plan.scorer.args
    chosen = torch.isin(candidates.indices, selection.indices)
    folds = out_of_fold(candidates.given("embeddings"), candidates.classes, schedule.seed)
    suspicious = () if folds is None else suspicious_labels(folds, candidates.indices, chosen)
    duplicates = _duplicates(candidates, chosen, seen.is_drawn, schedule.seed)
    furthest = _extremes(candidates, selection, chosen)
    shown = [index for index, _ in furthest.nearest + furthest.farthest]
    shown += [index for pair in duplicates.most_similar for index in pair[:2]]
    shown += [one.index for one in suspicious]
    losses = candidates.given("losses")
    return Inspection(
        strategy=str(args.to_dict()["strategy"]),
        pool_size=schedule.pool_size,
        budget=seen.sizes.selected,
        num_loops=schedule.num_loops,
        looked_at=len(candidates),
        selected_from=seen.part or (len(candidates) if seen.scores else schedule.pool_size),
        is_part=seen.part is not None,
        scores=seen.scores,
        selected=tuple(selection.indices.tolist()),
        cost=foreseen(args, schedule, seen.sizes, seen.unit),
        classes=_classes(labels, candidates, selection, chosen & seen.is_drawn, names),
        losses=loss_histogram(losses[seen.is_drawn], losses[chosen]),
        fold_losses=None if folds is None else _fold_losses(folds, chosen, seen.is_drawn),
        duplicates=duplicates,
        checked_labels=0 if folds is None else len(folds.rows),
        suspicious=suspicious,
        extremes=furthest,
        map=_map(candidates, chosen, seen.is_drawn, folds, plan),
        samples=_samples(shown, candidates, plan),
        class_names=names,
    )


def _classes(
    labels: Tensor | None, candidates: Candidates, selection: Selection, chosen: Tensor, names: Sequence[str]
) -> tuple[ClassShare, ...]:
    """Of the whole pool where a column has its classes, else of what was scored."""
    if labels is not None:
        return class_shares(labels, labels[selection.indices], names)
    classes = candidates.classes
    return class_shares(classes, None if classes is None else classes[chosen], names)


def _fold_losses(folds: OutOfFold, chosen: Tensor, is_drawn: Tensor) -> Histogram | None:
    return loss_histogram(folds.losses[is_drawn[folds.rows]], folds.losses[chosen[folds.rows]])


def _duplicates(candidates: Candidates, chosen: Tensor, is_drawn: Tensor, seed: int) -> NearDuplicates:
    selected, pool = chosen.nonzero()[:, 0], is_drawn.nonzero()[:, 0]
    selected = selected[evenly_spaced(len(selected), MOST_COMPARED)]
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed_of(seed, 1)))
    at_random = pool[order[: len(selected)]] if len(pool) > len(selected) else pool[:0]
    return near_duplicates(candidates.given("embeddings"), selected, at_random, candidates.indices)


def _extremes(candidates: Candidates, selection: Selection, chosen: Tensor) -> Extremes:
    to_centroids = selection.centroid_similarity
    if to_centroids is not None and bool(to_centroids.isfinite().any()):
        return extremes(selection.indices, to_centroids, CENTROID)
    similarity, reference = similarity_to_means(candidates.given("embeddings"), candidates.classes)
    return extremes(candidates.indices[chosen], similarity[chosen], reference)


def _map(candidates: Candidates, chosen: Tensor, is_drawn: Tensor, folds: OutOfFold | None, plan: Plan) -> EmbeddingMap:
    """Of what stands for the pool, beside what ActiveFT would select of it."""
    boundary, known = None, torch.zeros(len(candidates), dtype=torch.bool)
    if folds is not None:
        boundary = known.clone()
        boundary[folds.rows], known[folds.rows] = folds.on_boundary, True
    rows = is_drawn.nonzero()[:, 0]
    rows = rows[evenly_spaced(len(rows), COMPARED)]
    looked, ours = candidates.take(rows), chosen[rows]
    others = torch.zeros_like(ours)
    budget = int(ours.sum())
    seed = seed_of(plan.pool.seed, 0)
    if plan.args.strategy != "activeft" and 0 < budget < len(rows):
        options = replace_options(plan.args, strategy="activeft", random_fraction=0.0, loss_weighting="uniform")
        other = run_strategy(STRATEGIES["activeft"], looked, budget, options, seed)
        others = torch.isin(looked.indices, other.indices)
    near = None if boundary is None else boundary[rows]
    whose = OURS * ours.long() + OTHERS * others.long()
    return embedding_map(looked.given("embeddings"), looked.indices, whose, near, known[rows], seed)


def _samples(shown: Sequence[int], candidates: Candidates, plan: Plan) -> dict[int, Sample]:
    names, pool = plan.classes.names, plan.pool
    captions: Sequence[Caption] | None = None
    if plan.cea is not None:
        captions = find_captions(plan.cea.captions, pool.dataset, pool.labels, names)
    classes = candidates.classes
    label_of = {} if classes is None else dict(zip(candidates.indices.tolist(), classes.tolist(), strict=True))

    def named(label: int | None) -> str | None:
        return None if label is None else names[label] if label < len(names) else str(label)

    return {
        index: Sample(named(label_of.get(index)), None if captions is None else _as_text(captions[index]))
        for index in sorted(set(shown))
    }


def _as_text(caption: Caption) -> str | None:
    return " / ".join(caption) if isinstance(caption, tuple) else caption
