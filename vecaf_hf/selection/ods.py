"""Objective-aware Data Selection: Section 3.1 of VeCAF (arXiv 2401.07853).

`ods` is the whole section: the target distribution (Eq. 3, `weighting.py`), K centroids optimised in the embedding
space (Eq. 4 to 7: `objective.py`, `descent.py`), the sample nearest to each (`assignment.py`). `allocation.py` says in
which part of the pool each centroid lives, `ensemble.py` what several initialisations become.

What it costs is told in exact passes: one is the N x K similarities of the pool with the centroids, computed once. In a
large pool the start (`starts.py`) and the steps take one together, and the last look at the whole pool another; the
repulsion takes a fifth of one, or half where it is strong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import fmean

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vecaf_hf.selection.allocation import Cell, ClassShares, class_cells
from vecaf_hf.selection.assignment import distinct_nearest
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.descent import View, optimise_centroids
from vecaf_hf.selection.drawing import drawn
from vecaf_hf.selection.ensemble import debiased
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.processes import Spread, brought, dealt
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.similarity import unit_rows
from vecaf_hf.selection.starts import start_centroids
from vecaf_hf.selection.weighting import loss_weights


@strategy(needs={"embeddings", "losses"}, wants={"relevance", "processes"}, heeds={"allocation", "class_balance"})
def ods(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """Select `budget` samples whose embeddings cover the pool where the finetuning loss is large."""
    weights = selection_weights(candidates, options)  # [M]
    due = ClassShares.of(candidates, options.class_balance, generator)
    cells = class_cells(candidates.classes, weights, budget, options.allocation, due)
    parts = _select_in_cells(cells, candidates, weights, options, generator)
    return Selection(
        candidates.indices.cpu()[torch.cat([part.rows for part in parts])],
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
    figures = {"flops": sum(part.flops for part in parts)}
    chosen = [part for part in parts if part.descent]
    if chosen:
        for name in ("objective_start", "objective_end", "steps"):
            figures[name] = fmean(part.descent[name] for part in chosen)
        centroids = [len(part.rows) for part in chosen]
        figures["occupied"] = fmean((part.descent["occupied"] for part in chosen), centroids)
    return figures


@strategy(needs={"embeddings"}, wants={"processes"})
def activeft(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """ActiveFT (arXiv 2303.14382): ODS in the whole pool with the same weight for every sample.

    Its centroids start as `centroid_start` says; as published, at random samples.
    """
    alike = torch.ones(len(candidates), device=candidates.held_embeddings.own.device)
    blind = replace(candidates, losses=alike, relevance=None)
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
        similarity: Of each to its centroid; NaN where there was nothing to choose. [k].
        flops: Work.
        descent: How it went: figures, none where there was nothing to choose.
    """

    rows: Tensor
    similarity: Tensor
    flops: float = 0.0
    descent: dict[str, float] = field(default_factory=dict)


def _select_in_cells(
    cells: list[Cell], candidates: Candidates, weights: Tensor, options: SelectionOptions, generator: torch.Generator
) -> list[_Part]:
    """A part of each. All processes work together in the large cells, first; of the others, each selects in some."""
    generators = _one_each(len(cells), generator)
    cells = [_with_weight(cell, weights) for cell in cells]
    processes = candidates.processes
    found = {number: _all_of(cell.rows) for number, cell in enumerate(cells) if cell.budget == len(cell.rows)}
    work = [0.0 if number in found else float(len(cell.rows) * cell.budget) for number, cell in enumerate(cells)]
    owners: list[int | None] = [None] * len(cells)
    if processes.world > 1:
        owners = dealt(work, processes.world)
    due = sum(owner in (None, processes.rank) for number, owner in enumerate(owners) if work[number])
    hidden = getattr(options, "disable_tqdm", True) or processes.rank > 0  # Trainer's arguments have it
    # The last look at a cell takes about as long as the steps before it.
    steps = 2 * options.selection_steps * options.ensemble_size * due
    with tqdm(total=steps, desc="Selecting", disable=hidden, leave=False) as progress:
        for number, embeddings in _unit_rows(candidates, cells, owners, work):
            cell, own = cells[number], generators[number]
            found[number] = _select_in_cell(cell, embeddings, weights, options, own, progress.update)
    every = {number: part for of_one in processes.exchange(found) for number, part in of_one.items()}
    return [every[number] for number in range(len(cells))]


def _with_weight(cell: Cell, weights: Tensor) -> Cell:
    """The cell without samples of no weight: they are not to be selected, near to a centroid as they may be. With them
    where the others are too few."""
    weighted = cell.rows[weights[cell.rows] > 0]
    return replace(cell, rows=weighted) if len(weighted) >= cell.budget else cell


def _all_of(rows: Tensor) -> _Part:
    """Where there is nothing to choose."""
    return _Part(rows.cpu(), torch.full((len(rows),), torch.nan))


def _one_each(cells: int, generator: torch.Generator) -> list[torch.Generator]:
    """A generator for each cell, for any process to select in it, whatever the order."""
    if cells == 1:
        return [generator]
    seeds = torch.randint(2**62, (cells,), generator=generator)
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]


def _select_in_cell(
    cell: Cell,
    embeddings: Spread,
    weights: Tensor,
    options: SelectionOptions,
    generator: torch.Generator,
    advance: Callable[[int], object],
) -> _Part:
    weights = weights[cell.rows]
    members = []
    for _ in range(options.ensemble_size):
        start = start_centroids(embeddings, weights, cell.budget, options.centroid_start, generator)
        members.append(optimise_centroids(embeddings, weights, start, options, generator, advance))
    best, flops = min(members, key=lambda member: member.view.objective), sum(member.flops for member in members)
    if options.ensemble == "debias" and options.ensemble_size > 1:
        centroids = debiased([member.view.centroids for member in members])
        best = replace(best, view=View.of(embeddings, weights, centroids, options))
        flops += embeddings.flops_with(cell.budget)  # one exact pass
    chosen = distinct_nearest(embeddings, best.view.centroids, best.view.survey.top).to(cell.rows.device)
    similarity = (embeddings.at(chosen) * best.view.centroids).sum(dim=1).cpu()
    return _Part(cell.rows[chosen].cpu(), similarity, flops, best.figures)


def _unit_rows(
    candidates: Candidates, cells: list[Cell], owners: list[int | None], work: list[float]
) -> Iterator[tuple[int, Spread]]:
    """Number and unit embeddings of each cell that this process works in: those of all together stay where they are,
    then its own ones are brought to it."""
    embeddings = candidates.spread_embeddings
    rows = [cell.rows for cell in cells]
    for number, owner in enumerate(owners):
        if owner is None and work[number]:
            everything = len(rows[number]) == len(candidates)
            own = unit_rows(embeddings.own, None if everything else embeddings.own_of(rows[number]), aligned=True)
            bounds = (0, *accumulate(embeddings.counts_of(rows[number])))
            yield number, Spread(own, bounds, embeddings.processes, own.shape[1] - embeddings.own.shape[1])
    for number, brought_here in brought(embeddings, rows, owners, work):
        own = unit_rows(brought_here, aligned=True)
        yield number, Spread(own, (0, len(own)), added=own.shape[1] - embeddings.own.shape[1])


def replace_options(options: SelectionOptions, **changes: object) -> SelectionOptions:
    """A plain SelectionOptions with some fields changed; also from a subclass that validates much more."""
    names = SelectionOptions.__dataclass_fields__
    return SelectionOptions(**{name: getattr(options, name) for name in names} | changes)
