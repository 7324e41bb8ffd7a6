"""Groups of samples that look alike and fail far more than their classes.

What enters the head is trained to be the same under every condition: there, rare conditions drown among the borders
between classes, where every model errs. (Domino, arXiv 2203.14960, looks there.) So groups are looked for in how images
look, and only where samples have no images in what enters the head.

A clustering finds groups in any data, and it is not shown the losses. A group counts if it lies far off its classes, if
resamples find it again nearly as it is, and if its losses are above those of its classes by far more than chance.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import ward
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from vecaf_hf.seeding import seed_of
from vecaf_hf.selection.candidates import Candidates, evenly_spaced

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]

# Principal components that are looked at, and their least part of all variance.
COMPONENTS, LEAST_PART = 64, 1e-5
# What is rare has little variance, and so has noise: components are scaled half way to the same variance.
EVENED = 0.5
# Of the fits of clusters, as many as the root of the number of samples; groups are made of clusters.
STARTS, ITERATIONS = 3, 20
# Most samples that are looked at.
MOST_SAMPLES = 20_000
# Resamples, and the part of the samples that is in each.
RESAMPLES, PART = 10, 2 / 3
# A resample has found a group where it has one that shares this part of the members of both. (Hennig, 2007,
# "Cluster-wise assessment of cluster stability": what shares less is to be trusted little.)
SAME = 0.6
# Part of the resamples that must find a group.
STABLE = 0.5
# Of two groups that share more than this part of the smaller one, the more important is shown.
APART = 1 / 2
# Standard errors by which the members' loss must exceed that of their classes.
SIGNIFICANT = 4.0
# Standard deviations of all others by which a group looks unlike its classes; their common variants are nearer.
FAR = 4.0
# Fewest members, and the largest part of all samples.
SMALLEST, LARGEST = 20, 1 / 4


@dataclass(frozen=True)
class Group:
    """Samples that fail together; those that failed come first, of these the most typical.

    Args:
        members: Positions in what was looked at. LongTensor [n].
        accuracy: Of the model on them.
        class_accuracy: On the samples of their classes, each class with its share of the members.
        loss: Mean of the members'.
        class_loss: Of their classes, likewise.
        classes: Members of each class that has some.
        found: Part of the resamples that find it.
    """

    members: Tensor
    accuracy: float
    class_accuracy: float
    loss: float
    class_loss: float
    classes: dict[int, int]
    found: float

    @property
    def importance(self) -> float:
        """What groups are ranked by: how much worse than its classes, times the root of its size."""
        return (self.loss - self.class_loss) * len(self.members) ** 0.5


def find_groups(candidates: Candidates, seed: int = 0) -> list[Group]:
    """Groups among scored samples, the most important first; none where all fail alike.

    Args:
        candidates: With losses, logits, one class a sample, and appearance or, where there is none, embeddings. Of more
            than MOST_SAMPLES an even part is looked at.
        seed: The same one and the same candidates give the same groups.

    Raises:
        ValueError: One of these is missing.
    """
    candidates = candidates.take(evenly_spaced(len(candidates), MOST_SAMPLES))
    labels = candidates.needed_classes("conditions").unique(return_inverse=True)[1].numpy()
    losses = candidates.given("losses").double().numpy()
    wrong = _wrong(candidates)
    if LARGEST * len(losses) < SMALLEST:
        return []
    looks = candidates.given("embeddings") if candidates.appearance is None else candidates.appearance
    # Sums of several threads differ in their last bits.
    with threadpool_limits(1), warnings.catch_warnings():
        # Of many equal samples there are fewer clusters than asked for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        groups = _agreed(_places(looks.double().numpy(), labels), seed)
    excess, more_wrong = losses - _by_class(losses, labels), wrong - _by_class(wrong, labels)
    found = [
        _described(candidates, labels, members[np.argsort(-wrong[members], kind="stable")], part)
        for members, part in groups
        if more_wrong[members].mean() > 0 and _stands_out(excess[members])
    ]
    return _apart(sorted(found, key=lambda group: -group.importance))


def _apart(groups: list[Group]) -> list[Group]:
    """Those that are no part of an earlier one, and have none for a part."""
    kept: list[Group] = []
    for group in groups:
        shared = [
            int(torch.isin(group.members, one.members).sum()) / min(len(one.members), len(group.members))
            for one in kept
        ]
        if max(shared, default=0) <= APART:
            kept.append(group)
    return kept


def _by_class(values: Array, labels: Rows) -> Array:
    """The mean over each sample's class. [M, ...] -> [M, ...]."""
    sums = np.zeros((labels.max() + 1, *values.shape[1:]))
    np.add.at(sums, labels, values)
    return (sums.T / np.bincount(labels)).T[labels]


def _places(values: Array, labels: Rows) -> Array:
    """Principal components of what sets samples apart from their classes. [M, s] -> [M, p]."""
    rest = values - _by_class(values, labels)
    if not rest.any():
        return np.zeros((len(rest), 1))
    rest /= np.maximum(rest.std(axis=0), 1e-9)
    way = "randomized" if rest.shape[1] > COMPONENTS else "full"
    solver = PCA(min(COMPONENTS, *rest.shape), svd_solver=way, random_state=0).fit(rest)
    kept = solver.explained_variance_ratio_ > LEAST_PART
    return solver.transform(rest)[:, kept] / solver.explained_variance_[kept] ** (EVENED / 2)


def _agreed(places: Array, seed: int) -> list[tuple[Rows, float]]:
    """The groups that resamples find again: members, the most typical first, and the part that found it."""
    first = _tree(places, np.arange(len(places)), seed)
    sizes = first.sum(axis=0)
    first = first[:, (sizes >= SMALLEST) & (sizes <= LARGEST * len(places))]
    votes, found = np.zeros(first.shape), np.zeros(first.shape[1])
    generator = np.random.default_rng(seed)
    for resample in range(RESAMPLES):
        rows = generator.permutation(len(places))[: round(PART * len(places))]
        again = _tree(places, rows, seed_of(seed, resample))
        other, is_same = _most_alike(first, again)
        found += is_same
        votes += is_same & again[:, other]
    groups = []
    for group in np.flatnonzero(found >= STABLE * RESAMPLES).tolist():
        members = np.flatnonzero(votes[:, group] >= found[group] / 2)
        order = np.argsort(-votes[members, group], kind="stable")
        if len(members) >= SMALLEST and _distance(places, members) >= FAR:
            groups.append((members[order], float(found[group] / RESAMPLES)))
    return groups


def _distance(places: Array, members: Rows) -> float:
    """Of the members' mean to that of all others, in standard deviations of these in that direction."""
    along = places @ places[members].mean(axis=0)
    others = np.delete(along, members)
    return float((along[members].mean() - others.mean()) / max(others.std(), 1e-12))


def _tree(places: Array, rows: Rows, seed: int) -> Mask:
    """Clusters of these rows, and what they are joined to, two by two, until all is one: whether each of all samples is
    in each. [M, 2 k - 1]."""
    count = isqrt(len(places))
    clusters = KMeans(count, n_init=STARTS, max_iter=ITERATIONS, random_state=seed).fit(places[rows])
    made_of = list(np.eye(count, dtype=bool))
    for one, other, *_ in ward(clusters.cluster_centers_):
        made_of.append(made_of[int(one)] | made_of[int(other)])
    return np.stack(made_of, axis=1)[clusters.predict(places)]


def _most_alike(groups: Mask, again: Mask) -> tuple[Rows, Mask]:
    """Of each group that of a resample which shares most of both, and whether it is the same. [M, g], [M, k] -> [g]."""
    shared = groups.T.astype(np.float32) @ again.astype(np.float32)
    either = groups.sum(axis=0)[:, None] + again.sum(axis=0) - shared
    alike = shared / np.maximum(either, 1)
    return alike.argmax(axis=1), alike.max(axis=1) >= SAME


def _stands_out(excess: Array) -> bool:
    """Whether members' losses exceed those of their classes by more than chance."""
    return bool(excess.mean() > SIGNIFICANT * excess.std() / len(excess) ** 0.5)


def _described(candidates: Candidates, labels: Rows, members: Rows, found: float) -> Group:
    losses, wrong = candidates.given("losses").double().numpy(), _wrong(candidates)
    rows = torch.as_tensor(members)
    classes, counts = candidates.given("labels")[rows].unique(return_counts=True)
    return Group(
        members=candidates.indices[rows],
        accuracy=float(1 - wrong[members].mean()),
        class_accuracy=float(1 - _by_class(wrong, labels)[members].mean()),
        loss=float(losses[members].mean()),
        class_loss=float(_by_class(losses, labels)[members].mean()),
        classes=dict(zip(classes.tolist(), counts.tolist(), strict=True)),
        found=found,
    )


def _wrong(candidates: Candidates) -> Array:
    """1 where the prediction is not the label. [M]."""
    return (candidates.given("logits").argmax(dim=1) != candidates.given("labels")).double().numpy()
