"""From centroids to distinct samples: each centroid takes its nearest sample that no other has taken."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from vecaf_hf.selection.similarity import top

# Samples looked up per centroid before a centroid that lost them all to others looks at the whole pool.
CANDIDATES_PER_CENTROID = 16


def distinct_nearest(embeddings: Tensor, centroids: Tensor) -> Tensor:
    """One sample per centroid, all distinct (Section 3.1, last paragraph).

    All (centroid, sample) pairs are walked by falling similarity, and a pair is taken when both are still
    free; among equal similarities the lower sample comes first, then the lower centroid. So the result
    depends on the similarities alone, not on the order of the centroids.

    Args:
        embeddings: Unit rows. [N, d].
        centroids: Unit rows, K <= N. [K, d].

    Returns:
        Row of the sample that each centroid takes. LongTensor [K].
    """
    if len(centroids) > len(embeddings):
        raise ValueError(f"{len(centroids)} centroids cannot take distinct samples out of {len(embeddings)}")
    lists = _Preferences(embeddings, centroids)
    taken = torch.zeros(len(embeddings), dtype=torch.bool)
    chosen = torch.empty(len(centroids), dtype=torch.long)
    # Each free centroid has its best remaining pair on the heap, so the heap's top is the best pair of all.
    heap = [lists.next_pair(centroid, taken) for centroid in range(len(centroids))]
    heapq.heapify(heap)
    while heap:
        _, sample, centroid = heap[0]
        if taken[sample]:
            heapq.heapreplace(heap, lists.next_pair(centroid, taken))
            continue
        heapq.heappop(heap)
        taken[sample] = True
        chosen[centroid] = sample
    return chosen


class _Preferences:
    """Each centroid's free samples by falling similarity, looked up a few at a time."""

    def __init__(self, embeddings: Tensor, centroids: Tensor) -> None:
        self.embeddings, self.centroids = embeddings, centroids
        values, rows = top(centroids, embeddings, min(CANDIDATES_PER_CENTROID, len(embeddings)))
        self.lists = [_without_last_ties(v, r) for v, r in zip(values.tolist(), rows.tolist(), strict=True)]

    def next_pair(self, centroid: int, taken: Tensor) -> tuple[float, int, int]:
        """(minus similarity, sample, centroid) of the best pair not handed out yet."""
        if not self.lists[centroid]:
            self.lists[centroid] = self._look_up(centroid, taken)
        value, row = self.lists[centroid].pop()
        return value, row, centroid

    def _look_up(self, centroid: int, taken: Tensor) -> list[tuple[float, int]]:
        free = (~taken).nonzero().squeeze(1)
        values = (self.embeddings @ self.centroids[centroid]).cpu()[free]
        # Stable: among equal similarities the lower sample stays first.
        order = values.argsort(descending=True, stable=True)[:CANDIDATES_PER_CENTROID]
        return list(zip((-values[order]).tolist(), free[order].tolist(), strict=True))[::-1]


def _without_last_ties(values: list[float], rows: list[int]) -> list[tuple[float, int]]:
    """Pairs (minus similarity, row), best last, without those that tie with the worst: topk returns an
    arbitrary few of equal elements."""
    worst = values[-1]
    return sorted(((-value, row) for value, row in zip(values, rows, strict=True) if value > worst), reverse=True)
