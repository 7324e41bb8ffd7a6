"""Objective-aware Data Selection: Section 3.1 of VeCAF (arXiv 2401.07853).

`ods` is the whole section: the target distribution (Eq. 3, `weighting.py`), K centroids optimised in the embedding
space (Eq. 4 to 7: `objective.py`, `descent.py`), the sample nearest to each (`assignment.py`). `allocation.py` says in
which part of the pool each centroid lives, `ensemble.py` what several initialisations become.

What it costs is told in exact passes: one is the N x K similarities of the pool with the centroids, computed once. In a
large pool the start (`starts.py`) takes one, the steps take about one, the last look at the whole pool takes another;
weights by mass take one more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vecaf_hf.selection.allocation import Cell, ClassShares, class_cells
from vecaf_hf.selection.assignment import distinct_nearest
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.descent import Optimised, View, optimise_centroids
from vecaf_hf.selection.drawing import drawn
from vecaf_hf.selection.ensemble import debiased
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.similarity import nearest, unit_rows
from vecaf_hf.selection.starts import start_centroids
from vecaf_hf.selection.weighting import loss_weights


@strategy(
    needs={"embeddings", "losses"},
    wants={"relevance"},
    heeds={"allocation", "class_balance", "sample_weights"},
)
def ods(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """Select `budget` samples whose embeddings cover the pool where the finetuning loss is large."""
    weights = selection_weights(candidates, options)  # [M]
    due = ClassShares.of(candidates, options.balance, generator)
    cells = class_cells(candidates.classes, weights, budget, options.allocation, due)
    hidden = getattr(options, "disable_tqdm", True)  # Trainer's arguments have it
    # The last look at a cell takes about as long as the steps before it.
    work = 2 * options.selection_steps * options.ensemble_size * len(cells)
    with tqdm(total=work, desc="Selecting", disable=hidden, leave=False) as progress:
        parts = [_select_in_cell(cell, candidates, weights, options, generator, progress.update) for cell in cells]
    return Selection(
        candidates.indices.cpu()[torch.cat([part.rows for part in parts])],
        weights=torch.cat([part.mass for part in parts]) if options.sample_weights == "mass" else None,
        info=_figures(parts),
        centroid_similarity=torch.cat([part.similarity for part in parts]),
    )


def selection_weights(candidates: Candidates, options: SelectionOptions) -> Tensor:
    """`loss_weighting` of the losses, times the relevance where there is one. [M]."""
    losses = candidates.given("losses").float()
    weights = loss_weights(losses, options.loss_weighting, candidates.classes, options.trimmed_fraction)
    return weights if candidates.relevance is None else weights * candidates.relevance.float()


def _figures(parts: list[_Part]) -> dict[str, float]:
    """Means over the cells in which there was something to choose, and the work of all."""
    optimised = [part.optimised for part in parts if part.optimised is not None]
    figures = {"flops": sum(part.flops for part in parts)}
    if optimised:
        figures["objective_start"] = fmean(one.start for one in optimised)
        figures["objective_end"] = fmean(one.view.objective for one in optimised)
        figures["steps"] = fmean(one.steps for one in optimised)
        centroids = [len(one.view.centroids) for one in optimised]
        figures["occupied"] = fmean((one.view.occupied for one in optimised), centroids)
    return figures


@strategy(needs={"embeddings"}, heeds={"sample_weights"})
def activeft(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """ActiveFT (arXiv 2303.14382): ODS in the whole pool with the same weight for every sample.

    Its centroids start as `centroid_start` says; as published, at random samples.
    """
    blind = replace(candidates, losses=torch.ones_like(candidates.given("embeddings")[:, 0]), relevance=None)
    published = {"loss_weighting": "uniform", "allocation": "global", "diversity_weight": 1.0}
    return ods(blind, budget, replace_options(options, **published), generator)


@strategy(needs={"losses"}, wants={"relevance"})
def loss_sampling(
    candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator
) -> Selection:
    """K distinct samples, drawn with probability in proportion to the loss weight (Eq. 3), whatever the embedding.

    One after the other, so that K of few large weights are still distinct. Samples of weight zero come when there are
    no others; where all weights are zero, each sample is as likely as any other.
    """
    weights = selection_weights(candidates, options)  # [M]
    return Selection(candidates.indices.cpu()[drawn(len(candidates), weights, budget, generator)])


@dataclass(frozen=True)
class _Part:
    """What was selected in one cell.

    Args:
        rows: Of the candidates. LongTensor [k].
        mass: Samples of the cell that each stands for, ones where nobody asked. [k].
        similarity: Of each to its centroid; NaN where there was nothing to choose. [k].
        flops: Work.
        optimised: How it went; None where there was nothing to choose.
    """

    rows: Tensor
    mass: Tensor
    similarity: Tensor
    flops: float = 0.0
    optimised: Optimised | None = None


def _select_in_cell(
    cell: Cell,
    candidates: Candidates,
    weights: Tensor,
    options: SelectionOptions,
    generator: torch.Generator,
    advance: Callable[[int], object],
) -> _Part:
    weighted = cell.rows[weights[cell.rows] > 0]
    if cell.budget <= len(weighted) < len(cell.rows):
        # What has no weight is not to be selected, near to a centroid as it may be.
        cell = replace(cell, rows=weighted)
    if cell.budget == len(cell.rows):
        advance(2 * options.ensemble_size * options.selection_steps)
        return _Part(cell.rows.cpu(), torch.ones(cell.budget), torch.full((cell.budget,), torch.nan))
    whole = len(cell.rows) == len(candidates)
    embeddings = unit_rows(candidates.given("embeddings"), None if whole else cell.rows)
    weights = weights[cell.rows]
    members = []
    for _ in range(options.ensemble_size):
        start = start_centroids(embeddings, weights, cell.budget, options.centroid_start, generator)
        members.append(optimise_centroids(embeddings, weights, start, options, generator, advance))
    best, flops = min(members, key=lambda member: member.view.objective), sum(member.flops for member in members)
    one_pass = 2.0 * embeddings.numel() * cell.budget
    if options.ensemble == "debias" and options.ensemble_size > 1:
        centroids = debiased([member.view.centroids for member in members])
        best, flops = replace(best, view=View.of(embeddings, weights, centroids, options)), flops + one_pass
    chosen = distinct_nearest(embeddings, best.view.centroids, best.view.survey.top).to(embeddings.device)
    mass = torch.ones(cell.budget)
    if options.sample_weights == "mass":
        mass, flops = _mass(embeddings, chosen), flops + one_pass
    similarity = (embeddings[chosen] * best.view.centroids).sum(dim=1).cpu()
    return _Part(cell.rows[chosen].cpu(), mass, similarity, flops, best)


def _mass(embeddings: Tensor, chosen: Tensor) -> Tensor:
    """How many samples have each chosen one as their nearest, at least itself. [n, d], LongTensor [k] -> [k]."""
    _, assignment = nearest(embeddings, embeddings[chosen])
    # Of duplicates `nearest` credits only one.
    return torch.bincount(assignment, minlength=len(chosen)).clamp(min=1).float().cpu()


def replace_options(options: SelectionOptions, **changes: object) -> SelectionOptions:
    """A plain SelectionOptions with some fields changed; also from a subclass that validates much more."""
    names = SelectionOptions.__dataclass_fields__
    return SelectionOptions(**{name: getattr(options, name) for name in names} | changes)
