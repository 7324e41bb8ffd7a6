"""One option at a time: the ablations' results as one figure and one table for each, which `readme.py` writes.

Each grid in configs/ablations that has run left a `results.json` below results/ablations. A variant is compared, seed
by seed, with a reference: the `ods` of base.yaml where it is of that strategy, else `balanced`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any

from comparison import Results, Run, ends, markdown, mean_curve, tflops, with_error
from matplotlib.figure import Figure
from readings import READINGS, readings

RECIPES = Path(__file__).parent
GRIDS, RESULTS = RECIPES / "configs" / "ablations", RECIPES / "results" / "ablations"
SCORING, FREE = "ods", "balanced"
# What a run under conditions is judged by.
CONDITIONS = ("accuracy", "targets", "worst")


def reference(entry: Mapping[str, Any]) -> str:
    """The method that a variant is compared with."""
    return SCORING if entry["strategy"] == SCORING else FREE


def differences(results: Results, name: str) -> list[float]:
    """Points that a variant is better than its reference, seed by seed."""
    entry = results[name]
    other = results[f"{name.split('/')[0]}/{reference(entry)}"]
    return [mine - its for mine, its in zip(ends(entry["runs"]), ends(other["runs"]), strict=True)]


def variants(results: Results) -> list[str]:
    """All "pool/method" but the references."""
    return [name for name, entry in results.items() if name.split("/")[1] != reference(entry)]


def label(results: Results, name: str) -> str:
    """A run's name, with its pool where there are several."""
    pool, method = name.split("/")
    several = len({other.split("/")[0] for other in results}) > 1
    return f"`{method}` on `{pool}`" if several else f"`{method}`"


def table(results: Results) -> str:
    """One row a run: accuracy, difference, cost."""
    rows = [["run", "validation accuracy, %", "less the reference's, paired", "all-in TFLOPs"]]
    for name, entry in results.items():
        method, against = name.split("/")[1], reference(entry)
        difference = f"{with_error(differences(results, name), sign='+')} (`{against}`)" if method != against else ""
        work = mean_curve(entry["runs"])["flops"][-1] / 1e12
        rows.append([label(results, name), with_error(ends(entry["runs"])), difference, f"{work:.2f}"])
    return markdown(rows)


def table_under_conditions(results: Results) -> str:
    """One row a run of `compare_hidden_options.yaml`: validation accuracy, plain and over all conditions, and cost."""
    read = {name: _over_conditions(entry["runs"]) for name, entry in results.items()}
    header = ["run", *(f"{READINGS[name]}, %" for name in CONDITIONS)]
    rows = [[*header, f"{READINGS['targets']} less `{SCORING}`'s, paired", "all-in TFLOPs", "n"]]
    for name, found in read.items():
        other = read[f"{name.split('/')[0]}/{SCORING}"]
        less = [mine - its for mine, its in zip(found["targets"], other["targets"], strict=True)]
        cells = [label(results, name), *(with_error(found[one]) for one in CONDITIONS)]
        cells.append("" if found is other else with_error(less, sign="+"))
        rows.append([*cells, tflops(results[name]["runs"]), str(len(less))])
    return markdown(rows)


def _over_conditions(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Of each run's end on validation, %."""
    ends = [readings(run["curve"][-1]["accuracy"], run["curve"][-1]["targets"]) for run in runs]
    return {name: [100 * end[name] for end in ends] for name in CONDITIONS}


def pooled_error(grids: Mapping[str, Results]) -> float:
    """Standard error of a difference, from all of them: three seeds alone say little of it."""
    found = [differences(results, name) for results in grids.values() for name in variants(results)]
    return (fmean(variance(one) for one in found) / len(found[0])) ** 0.5


def figure(grids: Mapping[str, Results]) -> Figure:
    """Each variant's difference from its reference and its standard error, one colour a grid."""
    rows = [(grid, name) for grid, results in grids.items() for name in variants(results)]
    made = Figure(figsize=(9, 0.21 * len(rows) + 1.1), layout="constrained")
    axes = made.subplots()
    for place, (grid, name) in enumerate(rows):
        found = differences(grids[grid], name)
        colour = ("#0072B2", "#D55E00")[list(grids).index(grid) % 2]
        axes.errorbar(fmean(found), place, xerr=stdev(found) / len(found) ** 0.5, fmt="o", ms=4, color=colour)
    names = [f"{grid}: {label(grids[grid], name).replace('`', '')}" for grid, name in rows]
    axes.set_yticks(range(len(rows)), names, fontsize="small")
    axes.axvline(0, color="#999999", linewidth=0.8, linestyle="--")
    noise = 2 * pooled_error(grids)
    axes.axvspan(-noise, noise, color="#999999", alpha=0.15, linewidth=0)
    axes.set(xlabel=f"validation accuracy above `{SCORING}` or `{FREE}`, points\n(grey: within twice the pooled error)")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    return made


def finished() -> dict[str, Results]:
    """The grids that have run, by name."""
    files = {grid.stem: RESULTS / grid.stem / "results.json" for grid in sorted(GRIDS.glob("*.yaml"))}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def tables(grids: Mapping[str, Results]) -> str:
    """The pooled error, and for each grid the first line of its YAML and its table."""
    parts = [f"The standard error of a difference, pooled over all rows, is {pooled_error(grids):.1f}.\n"]
    for name, results in grids.items():
        first = (GRIDS / f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")
        parts.append(f"**`{name}`**. {first}\n\n{table(results)}\n")
    return "\n".join(parts)
