"""Selecting for a condition: samples like it count more, by as much as they are worse than their classes.

The factor is their mean loss over that of their classes, found anew at each boundary. So there is nothing to tune: it
is above 1 until the condition is as good as its classes, and below 1 once it is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.conditions.naming import says
from vecaf_hf.selection.candidates import Candidates

# The factor's bounds.
LEAST, MOST = 0.25, 8.0
# Fewest samples that a factor is found by.
FEWEST = 5
# Samples are like a group whose embeddings lie as near to its mean as this part of its own members do.
NEAR = 0.5
UNSAID = (
    "select_for has {!r}, and no caption of the pool says it: give captions that do (a CEACallback's, or a column "
    "'caption'), or the samples themselves: select_for=[trainer.conditions()[0].members]"
)


class SelectingFor:
    """Gives candidates their relevance.

    Args:
        wanted: Words, or positions of samples; each is a condition.
        captions: Of all samples of the pool, by position; None without.
        size: N.

    Attributes:
        figures: For the log, after a boundary: each condition's factor.

    Raises:
        ValueError: No caption has one of the words, or a position is none of the pool's.
    """

    def __init__(self, wanted: Sequence[str | Sequence[int]], captions: Sequence[str | None] | None, size: int) -> None:
        self.figures: dict[str, float] = {}
        # Whether each sample is in the condition, and whether others like it are told by images. BoolTensor [N].
        self._conditions = [(_members(one, captions, size), not isinstance(one, str)) for one in wanted]

    def __call__(self, candidates: Candidates) -> Candidates:
        """The candidates with their relevance times the factors of the conditions that they are like."""
        losses, labels = candidates.given("losses").double(), candidates.needed_classes("select_for")
        factors = torch.ones_like(losses)
        seen = candidates.whole() if any(by_images for _, by_images in self._conditions) else candidates
        for number, (members, by_images) in enumerate(self._conditions):
            like = members[candidates.indices]
            if by_images:
                like = _near(seen.given("embeddings"), labels, like)
            factor = _factor(losses, labels, like)
            factors[like] *= factor
            self.figures[f"select_for_{number}"] = factor
        earlier = 1.0 if candidates.relevance is None else candidates.relevance.double()
        return replace(candidates, relevance=factors * earlier)


def _members(wanted: str | Sequence[int], captions: Sequence[str | None] | None, size: int) -> Tensor:
    if isinstance(wanted, str):
        members = torch.tensor([caption is not None and says(caption, wanted) for caption in captions or [None] * size])
        if not members.any():
            raise ValueError(UNSAID.format(wanted))
        return members
    positions = torch.as_tensor(wanted)
    if len(positions) == 0 or int(positions.min()) < 0 or int(positions.max()) >= size:
        raise ValueError(f"select_for has positions that are not of the pool's {size} samples, or none")
    return torch.zeros(size, dtype=torch.bool).index_fill_(0, positions, True)


def _near(embeddings: Tensor, labels: Tensor, members: Tensor) -> Tensor:
    """The members, and samples as near to the direction in which these lie from their classes' means. Bool [M]."""
    if int(members.sum()) < FEWEST:
        return members
    shifts = normalize(embeddings.float() - _class_means(embeddings.float(), labels), dim=1)
    similarity = shifts @ normalize(shifts[members].mean(dim=0), dim=0)
    return members | (similarity >= similarity[members].quantile(1 - NEAR))


def _factor(losses: Tensor, labels: Tensor, like: Tensor) -> float:
    """Their mean loss over that of their classes, each class with its share of them."""
    if int(like.sum()) < FEWEST:
        return 1.0
    ratio = losses[like].mean() / _class_means(losses, labels)[like].mean().clamp(min=1e-12)
    return float(ratio.clamp(LEAST, MOST))


def _class_means(values: Tensor, labels: Tensor) -> Tensor:
    """The mean over each sample's class. [M, ...] -> [M, ...]."""
    _, classes = labels.unique(return_inverse=True)
    sums = values.new_zeros((int(classes.max()) + 1, *values.shape[1:])).index_add_(0, classes, values)
    counts = classes.bincount().reshape(-1, *[1] * (values.dim() - 1))
    return (sums / counts)[classes]
