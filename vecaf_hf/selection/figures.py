"""What a selection is like, in numbers: does it follow the losses, does it cover the pool?

The pool is here what the strategy was given to choose from: with `rescore="sampled"` a part of it, with CEA its moved
embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates, evenly_spaced
from vecaf_hf.selection.processes import Spread
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.similarity import nearest, unit_rows

# Losses whose variance is a smaller part of their squared mean hardly differ, as those of a fresh head.
ALIKE = 0.01
# Samples of the pool whose nearest selected one is looked for, at most: the same in each loop, so that loops compare
# well. The standard error of the mean is some 0.004 where the pool has outliers; four times as many would cost as much
# as the selection itself.
COVERAGE_SAMPLES = 1024


def figures_of(selection: Selection, candidates: Candidates) -> dict[str, float]:
    """`following` where there are losses, `coverage` where there are embeddings, and its work as `flops`.

    Args:
        selection: Of these candidates.
        candidates: In pool order.
    """
    rows = torch.searchsorted(candidates.indices.cpu(), selection.indices.contiguous()).to(candidates.indices.device)
    figures: dict[str, float] = {}
    if candidates.losses is not None:
        found = following(candidates.losses, rows)
        figures |= {} if found is None else {"following": found}
    if candidates.has_embeddings and len(selection) < len(candidates):
        embeddings = candidates.spread_embeddings
        figures["coverage"] = coverage(embeddings, rows)
        figures["flops"] = embeddings.flops_with(len(selection), min(len(candidates), COVERAGE_SAMPLES))
    return figures


def following(losses: Tensor, rows: Tensor) -> float | None:
    """How far the selected samples' mean loss lies on the way from the pool's to that under p_L of Eq. 3.

    0 for a selection that is blind to the losses, 1 for samples drawn with probability p_L, under which the mean loss
    is sum l^2 / sum l; beyond 1 for one that prefers the largest. None where the losses hardly differ.

    Args:
        losses: Of the pool. [N].
        rows: The selected ones. LongTensor [K].
    """
    losses = losses.double()
    blind, total = losses.mean(), losses.sum()
    if total <= 0:
        return None
    drawn = losses.square().sum() / total
    # The difference is their variance by their mean.
    if drawn - blind < ALIKE * blind:
        return None
    return float((losses[rows].mean() - blind) / (drawn - blind))


def coverage(embeddings: Tensor | Spread, rows: Tensor) -> float:
    """Mean cosine of the pool's samples to their nearest selected ones.

    Of at most COVERAGE_SAMPLES of the pool, evenly spaced.

    Args:
        embeddings: Of the pool, any scale. [N, d].
        rows: The selected ones. LongTensor [K].
    """
    spread = Spread.of(embeddings)
    some = evenly_spaced(spread.size, COVERAGE_SAMPLES).to(spread.own.device)
    mine = unit_rows(spread.own, spread.own_of(some), aligned=True)
    similarity, _ = nearest(mine, unit_rows(spread.at(rows), aligned=True), len(some))
    return float(spread.whole(similarity).mean())
