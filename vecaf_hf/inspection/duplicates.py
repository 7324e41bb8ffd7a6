"""Near duplicates in a selection: samples that teach the same thing twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vecaf_hf.selection.products import products
from vecaf_hf.selection.similarity import unit_rows

# Cosine similarity from which two samples count as near duplicates. Of embeddings less their mean: what all of them
# share (after a ReLU, most of their length) says nothing, and without it one threshold serves different models. Fixed,
# and no quantile of the pool's own similarities, by which every pool would have as many. On 3,000 Fashion-MNIST images
# under EfficientNet-Lite0, 1 % have a near duplicate by it, and 15 % where nine tenths are light augmentations of a
# twentieth.
NEAR = 0.95
# Pairs that are listed, the most similar first.
LISTED_PAIRS = 8


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of samples with nearly the same embedding.

    Args:
        threshold: Least cosine similarity of a pair.
        looked_at: Samples that were compared.
        samples: Those that have a near duplicate among them.
        samples_at_random: The same of equally many random samples of the pool, to compare with.
        pairs: How many.
        most_similar: (index, index, similarity) of the most similar pairs.
    """

    threshold: float
    looked_at: int
    samples: int
    samples_at_random: int | None
    pairs: int
    most_similar: tuple[tuple[int, int, float], ...]


def near_duplicates(
    embeddings: Tensor, selected: Tensor, at_random: Tensor, indices: Tensor, threshold: float = NEAR
) -> NearDuplicates:
    """Near duplicates among the selected rows.

    Args:
        embeddings: Of all that was scored, whose mean is taken off. [M, d].
        selected: Their rows that are looked at. LongTensor [n].
        at_random: Rows to compare with, as many; none where there are not enough. LongTensor [n] or [0].
        indices: Position of each row in the pool. LongTensor [M].
        threshold: Least similarity, in [-1, 1].
    """
    units = unit_rows(embeddings.float() - embeddings.float().mean(dim=0))
    first, second, similarity = similar_pairs(units[selected], threshold)
    order = similarity.argsort(descending=True, stable=True)[:LISTED_PAIRS]
    a, b = indices[selected[first[order]]], indices[selected[second[order]]]
    listed = zip(a.tolist(), b.tolist(), similarity[order].tolist(), strict=True)
    by_chance = None
    if len(at_random):
        by_chance = len(torch.cat(similar_pairs(units[at_random], threshold)[:2]).unique())
    return NearDuplicates(
        threshold=threshold,
        looked_at=len(selected),
        samples=len(torch.cat([first, second]).unique()),
        samples_at_random=by_chance,
        pairs=len(first),
        most_similar=tuple(listed),
    )


def similar_pairs(units: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of unit rows with at least this inner product: both rows, the lower first, and the product. [n, d]."""
    firsts, seconds, values = [], [], []
    for where, similarities in products(units, units):
        row, column = (similarities >= threshold).nonzero(as_tuple=True)
        later = column > row + where.start
        firsts.append(row[later] + where.start)
        seconds.append(column[later])
        values.append(similarities[row[later], column[later]])
    return torch.cat(firsts), torch.cat(seconds), torch.cat(values)
