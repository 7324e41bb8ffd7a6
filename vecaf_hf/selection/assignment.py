"""From centroids to distinct samples: each centroid takes its nearest sample that no other has taken."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.selection.processes import Spread
from vecaf_hf.selection.products import products
from vecaf_hf.selection.similarity import Top, survey

# Nearest samples of each centroid that are looked up at first.
NEAREST_SAMPLES = 8


def distinct_nearest(embeddings: Tensor | Spread, centroids: Tensor, top: Top | None = None) -> Tensor:
    """One sample per centroid, all distinct (Section 3.1, last paragraph).

    The result is that of walking all (centroid, sample) pairs by falling similarity and taking a pair when both are
    still free; among equal similarities the lower sample comes first, then the lower centroid. So it depends on the
    similarities alone, not on the order of the centroids; of pairs that differ by no more than the rounding of a
    product, either may come first.

    It is found by deferred acceptance (Gale and Shapley): each free centroid asks its nearest sample that has not
    refused it, each sample keeps the nearest centroid of those that asked. Both sides rank pairs alike, so there is one
    stable matching only, and it is that of the walk.

    Args:
        embeddings: Unit rows. [N, d].
        centroids: Unit rows, K <= N. [K, d].
        top: The nearest samples of each centroid, any number of them, where they are known already.

    Returns:
        Row of the sample that each centroid takes. LongTensor [K].
    """
    spread = Spread.of(embeddings)
    if len(centroids) > spread.size:
        raise ValueError(f"{len(centroids)} centroids cannot take distinct samples out of {spread.size}")
    if top is None:
        top = survey(spread, centroids, min(NEAREST_SAMPLES, spread.size)).top
    matching = _Matching(spread, centroids, top)
    free = torch.arange(len(centroids))
    while len(free):
        free = matching.propose(free)
    return matching.taken


class _Matching:
    """Who holds which sample so far; small tensors, on the CPU, the same in all processes."""

    def __init__(self, spread: Spread, centroids: Tensor, top: Top) -> None:
        self.spread, self.centroids = spread, centroids
        self.values, self.rows = top.values.cpu(), top.rows.cpu()
        self.asked = torch.zeros(len(centroids), dtype=torch.long)  # samples of its list
        self.taken = torch.full((len(centroids),), -1)
        self.holder = torch.full((spread.size,), -1)
        self.held = torch.full((spread.size,), -torch.inf, dtype=self.values.dtype)

    def propose(self, free: Tensor) -> Tensor:
        """Every free centroid asks its next sample; those that are free after it. LongTensor [f] -> [g]."""
        self._look_up(free[(self._next(self.rows, free) < 0)])
        value, sample = self._next(self.values, free), self._next(self.rows, free)
        self.asked[free] += 1
        # By sample, then falling similarity, then rising centroid: the first of each sample is the one that it keeps.
        order = free.argsort(stable=True)
        order = order[value[order].argsort(descending=True, stable=True)]
        order = order[sample[order].argsort(stable=True)]
        first = torch.ones(len(order), dtype=torch.bool)
        first[1:] = sample[order][1:] != sample[order][:-1]
        best = order[first]
        best = best[self._prefers(sample[best], value[best], free[best])]
        winners, samples = free[best], sample[best]
        ousted = self.holder[samples]
        self.holder[samples], self.held[samples], self.taken[winners] = winners, value[best], samples
        refused = torch.ones(len(free), dtype=torch.bool)
        refused[best] = False
        return torch.cat([free[refused], ousted[ousted >= 0]])

    def _next(self, lists: Tensor, centroids: Tensor) -> Tensor:
        """What their lists have where they have come to; -1 past the end."""
        asked = self.asked[centroids]
        past = asked >= lists.shape[1]
        return lists[centroids, asked.clamp(max=lists.shape[1] - 1)].masked_fill(past, -1)

    def _prefers(self, samples: Tensor, values: Tensor, centroids: Tensor) -> Tensor:
        """Whether each sample takes this centroid rather than the one it has."""
        held, holder = self.held[samples], self.holder[samples]
        return (values > held) | ((values == held) & (centroids < holder))

    def _look_up(self, exhausted: Tensor) -> None:
        """New lists for centroids whose lists are used up: of the samples that would take them, some of which are
        free."""
        if len(exhausted) == 0:
            return
        device, share = self.spread.own.device, self.spread.share
        keys, own = self.centroids[exhausted.to(device)], exhausted.to(device)
        held, holder = self.held[share].to(device), self.holder[share].to(device)
        top = Top(keys, self.values.shape[1])
        for where, similarities in products(self.spread.own, keys):
            lower, of = held[where, None], holder[where, None]
            refuses = (similarities < lower) | ((similarities == lower) & (own >= of))
            top.add(similarities.masked_fill_(refuses, -torch.inf), share.start + where.start)
        top.merge_with(self.spread.processes)
        self.values[exhausted], self.rows[exhausted] = top.values.cpu(), top.rows.cpu()
        self.asked[exhausted] = 0
