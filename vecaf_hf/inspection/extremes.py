"""The selected samples nearest to what they stand for, and those farthest from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vecaf_hf.selection.similarity import unit_rows

# Samples on each side of the contact sheet.
SHOWN = 12
CENTROID, CLASS_MEAN, MEAN = "their centroids", "the mean embeddings of their classes", "the mean embedding"


@dataclass(frozen=True)
class Extremes:
    """Selected samples by their similarity to what they stand for.

    Args:
        reference: CENTROID; where the strategy has none, CLASS_MEAN or MEAN, of the candidates.
        nearest: (index, cosine similarity), the most similar first.
        farthest: The least similar first.
    """

    reference: str
    nearest: tuple[tuple[int, float], ...]
    farthest: tuple[tuple[int, float], ...]


def extremes(indices: Tensor, similarity: Tensor, reference: str, shown: int = SHOWN) -> Extremes:
    """The first and the last of these samples, none on both sides.

    Args:
        indices: Selected samples. LongTensor [n].
        similarity: Of each to what it stands for; NaN where it stands for nothing. [n].
        reference: What that is.
        shown: Most samples on a side.
    """
    known = similarity.isfinite()
    indices, similarity = indices[known], similarity[known]
    order = similarity.argsort(descending=True, stable=True)
    each = min(shown, len(order) // 2)

    def listed(rows: Tensor) -> tuple[tuple[int, float], ...]:
        return tuple(zip(indices[rows].tolist(), similarity[rows].tolist(), strict=True))

    return Extremes(reference, listed(order[:each]), listed(order.flip(0)[:each]))


def similarity_to_means(embeddings: Tensor, classes: Tensor | None) -> tuple[Tensor, str]:
    """Cosine similarity of each sample to the mean of its class's unit embeddings, and what that is. [M, d], [M]."""
    units = unit_rows(embeddings)
    groups = torch.zeros(len(units), dtype=torch.long) if classes is None else classes.unique(return_inverse=True)[1]
    means = torch.zeros(int(groups.max()) + 1, units.shape[1]).index_add_(0, groups, units)
    return (units * unit_rows(means)[groups]).sum(dim=1), MEAN if classes is None else CLASS_MEAN
