"""What runs of several seeds tell of two methods: how far apart they are, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Of all intervals together.
CONFIDENCE = 0.95
# With which a difference as large as the one seen would be told.
POWER = 0.8
# More seeds than that are told as "more than": nobody runs them.
MOST_SEEDS = 500

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How much better a method is than the reference, seed by seed, in points.

    Args:
        mean: Of the seeds.
        low: The interval's lower end; minus infinity for one seed, or where all seeds say the same.
        high: Its upper end.
        seeds_needed: Seeds that would tell a difference as large as the mean from none; None where that is not known.
    """

    mean: float
    low: float
    high: float
    seeds_needed: int | None

    @classmethod
    def of(cls, values: Sequence[float], reference: Sequence[float], methods: int = 1) -> Difference:
        """Of paired accuracies, parts of 1, by Student's t. The intervals of so many methods hold together: the best of
        several is better by chance alone (Bonferroni)."""
        points = [100 * (one - other) for one, other in zip(values, reference, strict=True)]
        mean = fmean(points)
        if len(points) < 2:
            return cls(mean, -math.inf, math.inf, None)
        spread, beyond = stdev(points), (1 - CONFIDENCE) / (2 * methods)
        if spread == 0:
            # Ties of a small split, not certainty.
            return cls(mean, -math.inf, math.inf, None)
        half = float(stats.t.isf(beyond, len(points) - 1)) * spread / len(points) ** 0.5
        return cls(mean, mean - half, mean + half, _seeds_needed(mean, spread, beyond))

    @property
    def is_better(self) -> bool:
        return self.low > 0

    @property
    def is_worse(self) -> bool:
        return self.high < 0

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"{self.mean:+.1f} (spread unknown)"
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


def _seeds_needed(mean: float, spread: float, beyond: float) -> int | None:
    if mean == 0:
        return None
    quantiles = stats.norm.isf(beyond) + stats.norm.ppf(POWER)
    return max(2, math.ceil((quantiles * spread / mean) ** 2))


def to_target(accuracy: Array, work: Array, target: Array) -> Array:
    """Work done when an accuracy first reaches the target, between points by a line; NaN if never.

    [R, points], [R, points], [R] -> [R].
    """
    rows, reached = np.arange(len(target)), accuracy >= target[:, None]
    after = reached.argmax(1)
    before = np.maximum(after - 1, 0)
    rise = accuracy[rows, after] - accuracy[rows, before]
    part = (target - accuracy[rows, before]) / np.where(rise == 0, 1, rise)
    done = work[rows, before] + part * (work[rows, after] - work[rows, before])
    return np.where(reached.any(1), done, np.nan)


def verdict(differences: Mapping[str, Difference], costs: Mapping[str, float], reference: str, split: str) -> str:
    """One sentence: what pays, by how much; or that nothing could be told, and how many seeds it would take.

    Args:
        differences: Of each method but the reference; one at least.
        costs: Their work, as parts of the reference's.
        reference: Its name.
        split: What the accuracies are of.
    """
    surely = [method for method, one in differences.items() if one.is_better]
    best = max(surely or differences, key=lambda method: differences[method].mean)
    found = differences[best]
    if math.isinf(found.high):
        return (
            f"Too few seeds, or images, to tell: {best} is {found.mean:+.1f} points from {reference}, and nothing "
            "says how much of that is chance. Give two seeds at least, better five."
        )
    if found.is_better:
        return (
            f"{best} pays: on the {split} split it is {found.mean:.1f} points more accurate than {reference} "
            f"({found.low:.1f} to {found.high:.1f}), for {costs[best]:.2f} times its work."
        )
    if all(one.is_worse for one in differences.values()):
        return (
            f"No selection pays here: the best, {best}, is {-found.mean:.1f} points less accurate than {reference} on "
            f"the {split} split ({-found.high:.1f} to {-found.low:.1f})."
        )
    return (
        f"Nothing pays that could be told from chance: on the {split} split {best} is {found} points from {reference}; "
        f"{_seeds(found.seeds_needed)} would tell so small a difference."
    )


def _seeds(needed: int | None) -> str:
    if needed is None:
        return "no number of seeds"
    return f"more than {MOST_SEEDS} seeds" if needed > MOST_SEEDS else f"some {needed} seeds"
