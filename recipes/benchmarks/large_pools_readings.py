"""What the simulation's results come to: the quality that a selection keeps, and how time grows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from large_pools_plan import cells_for, selection_flops
from sharded_pool import DIMENSION

Results = Mapping[str, Any]


def ends(results: Results, selected: float) -> tuple[float, float]:
    """J of random selections and of those in the whole pool."""
    chance = next(one for one in results["chance"] if one["selected"] == selected)
    whole = next(one for one in results["fractions"] if (one["selected"], one["fraction"]) == (selected, 1.0))
    return chance["objective"][0], whole["objective"][0]


def kept(results: Results, one: Results) -> float:
    """Part of the whole pool's decrease in J, from random selections', that a selection has."""
    start, end = ends(results, one["selected"])
    return (start - one["objective"][0]) / (start - end)


def kept_error(results: Results, one: Results) -> float:
    """Its standard error, as far as the selection's own J has one."""
    start, end = ends(results, one["selected"])
    return one["objective"][1] / abs(start - end)


def stages(results: Results) -> dict[str, list[tuple[int, float]]]:
    """CPU seconds of each stage by the pool's size."""
    found: dict[str, list[tuple[int, float]]] = {}
    for one in results["growth"]:
        for stage, seconds in one["seconds"].items():
            if stage == "select":
                stage = "select by cell" if one["cells"] > 1 else "select in the whole pool"
            elif one["cells"] == 1:
                continue
            found.setdefault(stage, []).append((one["size"], seconds))
    return found


def work_of(stage: str, size: int, budget: int) -> float:
    """What a stage's time follows, up to a factor."""
    cells = cells_for(budget)
    if stage == "select in the whole pool":
        return selection_flops(size, budget, DIMENSION)
    if stage == "select by cell":
        return cells * selection_flops(size // cells, budget // cells, DIMENSION)
    return float({"fit cells": cells**2, "assign to cells": size * cells}.get(stage, size))


def fitted(stage: str, points: Sequence[tuple[int, float]], selected: float) -> Callable[[int], float]:
    """Seconds by the pool's size: a + b work, of the least relative error."""
    work = [work_of(stage, size, round(selected * size)) for size, _ in points]
    seconds = np.array([one for _, one in points])
    factor, offset = np.polyfit(work, seconds, 1, w=1 / seconds)
    return lambda size: float(offset + factor * work_of(stage, size, round(selected * size)))


def slope(results: Results, what: str) -> float:
    """What the trainer takes more for one more sample of the pool."""
    first, last = results["trainer"][0], results["trainer"][-1]
    return (last[what] - first[what]) / (last["size"] - first["size"])
