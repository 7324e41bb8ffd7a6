"""Where ODS's centroids start: at K distinct samples of the pool.

Centroids move little, so the places where they start decide how many of them end in which part of the pool. Drawn with
the probabilities of Eq. 3, they follow the loss from the beginning; drawn uniformly, they never do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vecaf_hf.selection.drawing import drawn, log_waiting
from vecaf_hf.selection.processes import Spread
from vecaf_hf.selection.similarity import nearest
from vecaf_hf.selection.weighting import target_distribution

CENTROID_STARTS = ("k-means++", "weighted", "random")
# Parts in which k-means++ draws its samples. One at a time, as published, takes as many products, but K small ones.
ROUNDS = 8
# How many samples a start looks at for each centroid, and how many at least. In larger pools they are drawn with the
# probabilities of Eq. 3: a start that is drawn from them finds the large losses.
SAMPLES_PER_START, FEWEST_SEEN = 12, 8192
# What a sample counts that is where a start is already: between such samples p_L decides.
COVERED = 1e-6


@dataclass(frozen=True)
class Start:
    """Samples at which centroids start, and the pool, or a part of it, seen from them.

    Args:
        rows: Of the pool, distinct. LongTensor [K].
        assignment: The start, 0 to K - 1, that each sample is nearest to, -1 where nobody has looked; of this process's
            own. LongTensor [n].
        seen: Who has been looked at, in whichever process. BoolTensor [N].
    """

    rows: Tensor
    assignment: Tensor
    seen: Tensor


def start_centroids(
    embeddings: Tensor | Spread, weights: Tensor, count: int, start: str, generator: torch.Generator
) -> Start:
    """K distinct samples to start at.

    Args:
        embeddings: e, unit rows or zero. [N, d].
        weights: Loss weight of each sample; Eq. 3 makes p_L of them. [N].
        count: K.
        start: `random`, each sample as likely as any other; `weighted`, with probability p_L; `k-means++`, in rounds:
            after the first one with p_L times the squared distance to the nearest sample drawn so far, so that no
            region with a part of the loss is left out.
        generator: Draws them, on the CPU.
    """
    whole = Spread.of(embeddings)
    probabilities = target_distribution(torch.ones_like(weights) if start == "random" else weights)
    spread, some = whole, torch.arange(whole.size, device=weights.device)
    if (looks := seen_by_start(whole.size, count)) < whole.size:
        some, probabilities = _part(probabilities, looks, generator)
        spread = whole.take(some)
    rounds = min(ROUNDS, count) if start == "k-means++" else 1
    # A zero row has no direction, and is as far from every other as from itself: no start covers it.
    has_direction = spread.whole(torch.linalg.vecdot(spread.own, spread.own)) > 0.5
    distance = torch.ones_like(probabilities)
    similarity = torch.full_like(spread.own[:, 0], -torch.inf)
    assignment = torch.zeros(len(similarity), dtype=torch.long, device=similarity.device)
    rows = assignment[:0]
    for part in torch.arange(count).tensor_split(rounds):
        new = _further(rows, probabilities * distance, len(part), generator)
        closest, which = nearest(spread.own, spread.at(new), spread.size)
        assignment = torch.where(closest > similarity, which + len(rows), assignment)
        similarity = torch.maximum(closest, similarity)
        distance = torch.where(has_direction, 1 - spread.whole(similarity), 0).clamp(min=COVERED)
        rows = torch.cat([rows, new])
    seen = torch.zeros(whole.size, dtype=torch.bool, device=some.device)
    seen[some] = True
    everywhere = assignment.new_full((len(whole.own),), -1)
    everywhere[whole.own_of(some)] = assignment
    return Start(some[rows], everywhere, seen)


def seen_by_start(size: int, count: int) -> int:
    """How many of `size` samples a start of K centroids looks at."""
    return min(size, max(FEWEST_SEEN, SAMPLES_PER_START * count))


def _part(probabilities: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows that are drawn with these probabilities [N], rising, and what each then stands for: its probability, by that
    of having been drawn (Horvitz and Thompson, 1952). LongTensor [count], [count]."""
    rates = probabilities.cpu().double()
    waiting = log_waiting(rates, generator)
    order = waiting.argsort(stable=True)
    rows = order[:count].sort().values
    # Drawn is who came before the next one would have come.
    chances = -torch.expm1(-rates[rows] * waiting[order[count]].exp())
    return rows.to(probabilities.device), (rates[rows] / chances).nan_to_num(nan=0.0).to(probabilities)


def start_at(embeddings: Tensor, rows: Tensor) -> Start:
    """These samples as a start. [N, d], LongTensor [K]."""
    assignment = nearest(embeddings, embeddings[rows])[1]
    return Start(rows, assignment, torch.ones_like(assignment, dtype=torch.bool))


def _further(taken: Tensor, rates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` rows, LongTensor, that are not among those taken, with chances in proportion to their rates [N]."""
    free = torch.ones_like(rates, dtype=torch.bool)
    free[taken] = False
    rows = free.nonzero().squeeze(1)
    return rows[drawn(len(rows), rates[rows], count, generator).to(rows.device)]
