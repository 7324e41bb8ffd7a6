"""The tables and plots of a grid that `compare.py` has run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# Not for its own sake: other work is what it is paid with.
NOT_COUNTED = {"evaluate"}
REFERENCE = "full"

Point = Mapping[str, Any]  # of a curve
Measure = Callable[[Point], float]
Group = tuple[str, str]  # (pool, method)
Results = Mapping[Group, Sequence[Mapping[str, Any]]]


def cost(point: Point) -> float:
    """FLOPs of all work up to a point of a curve, but for its evaluations."""
    return sum(work["flops"] for kind, work in point["work"].items() if kind not in NOT_COUNTED)


def steps(point: Point) -> float:
    return point["step"]


def to_target(points: Sequence[Point], target: float, measure: Measure) -> float:
    """Steps or cost at which validation accuracy first reaches the target, between points by a line; NaN if never."""
    before = None
    for point in points:
        if point["accuracy"] >= target:
            if before is None:
                return measure(point)
            part = (target - before["accuracy"]) / (point["accuracy"] - before["accuracy"])
            return measure(before) + part * (measure(point) - measure(before))
        before = point
    return float("nan")


def mean_curve(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The seeds' curves averaged point by point; they evaluate at the same steps."""
    return [
        {
            "step": points[0]["step"],
            "accuracy": fmean(point["accuracy"] for point in points),
            "flops": fmean(cost(point) for point in points),
        }
        for points in zip(*(run["curve"] for run in runs), strict=True)
    ]


def with_error(values: Sequence[float]) -> str:
    """Mean and standard error."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{fmean(values):.1f} ± {stdev(values) / len(values) ** 0.5:.1f}"


def table(pool: str, results: Results, rates: Mapping[Group, float]) -> str:
    """One row a method: test accuracy, rate, work, and batches and cost to the accuracy that `full` ends with."""
    methods = [method for its, method in results if its == pool]
    curves = {method: mean_curve(results[pool, method]) for method in methods}
    header = ["method", "test accuracy, %", "n", "learning rate", "samples scored", "all-in TFLOPs"]
    against = REFERENCE in methods
    if against:
        target = curves[REFERENCE][-1]["accuracy"]
        full = {name: to_target(curves[REFERENCE], target, measure) for name, measure in MEASURES.items()}
        header += [f"{name} to the accuracy of `{REFERENCE}`, of its" for name in MEASURES]
    rows = []
    for method in sorted(methods, key=lambda method: -fmean(run["test"] for run in results[pool, method])):
        runs = results[pool, method]
        scored = fmean(run["curve"][-1]["work"]["score"]["samples"] for run in runs)
        cells = [f"`{method}`", with_error([100 * run["test"] for run in runs]), str(len(runs))]
        cells += [f"{rates[pool, method]:g}", f"{scored:,.0f}", f"{curves[method][-1]['flops'] / 1e12:.2f}"]
        if against:
            cells += [_part(to_target(curves[method], target, measure), full[n]) for n, measure in MEASURES.items()]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def _flops(point: Point) -> float:
    return point["flops"]


MEASURES: dict[str, Measure] = {"batches": steps, "cost": _flops}


def _part(value: float, whole: float) -> str:
    return "never" if np.isnan(value) else f"{value / whole:.2f}"


def styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a line for each method: a palette that colour-blind readers tell apart, then other dashes."""
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
    dashes = ["-", "--", ":", "-."]
    return {
        method: {"color": colours[i % len(colours)], "linestyle": dashes[i // len(colours) % len(dashes)]}
        for i, method in enumerate(methods)
    }


def curves_figure(results: Results, pools: Sequence[str], methods: Sequence[str], by_cost: bool) -> Figure:
    """Validation accuracy against batches, or against all-in cost, one panel a pool."""
    figure = Figure(figsize=(4.2 * len(pools) + 1.8, 3.8), layout="constrained")
    panels = figure.subplots(1, len(pools), squeeze=False)[0]
    style = styles(methods)
    for axes, pool in zip(panels, pools, strict=True):
        for method in methods:
            if (pool, method) in results:
                curve = mean_curve(results[pool, method])
                x = [point["flops"] / 1e12 if by_cost else point["step"] for point in curve]
                axes.plot(x, [100 * point["accuracy"] for point in curve], label=method, linewidth=1.6, **style[method])
        axes.set(title=pool.replace("_", "-"), xlabel="all work but evaluation, TFLOPs" if by_cost else "batches")
        if by_cost:
            axes.set_xscale("log")
    panels[0].set_ylabel("validation accuracy, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize="small")
    return figure


def bars_figure(results: Results, pools: Sequence[str], methods: Sequence[str]) -> Figure:
    """Batches and cost to the accuracy that `full` ends with, as parts of what `full` takes."""
    figure = Figure(figsize=(4.2 * len(pools), 0.32 * len(methods) * 2 + 2), layout="constrained")
    panels = figure.subplots(2, len(pools), squeeze=False, sharey=True)
    for column, pool in enumerate(pools):
        curves = {method: mean_curve(results[pool, method]) for method in methods if (pool, method) in results}
        target = curves[REFERENCE][-1]["accuracy"]
        for row, (name, measure) in enumerate(MEASURES.items()):
            axes = panels[row][column]
            whole = to_target(curves[REFERENCE], target, measure)
            parts = [to_target(curves.get(method, []), target, measure) / whole for method in methods]
            axes.barh(methods, np.nan_to_num(parts), color="#0072B2" if row == 0 else "#009E73")
            for place, part in enumerate(parts):
                axes.text(0, place, "  never" if np.isnan(part) else "", va="center", fontsize="small")
            axes.axvline(1, color="#999999", linewidth=0.8, linestyle="--")
            axes.set(title=pool.replace("_", "-") if row == 0 else "", xlabel=f"{name}, of `{REFERENCE}`'s")
    panels[0][0].invert_yaxis()
    return figure


def losses_figure(results: Results, pools: Sequence[str], methods: Sequence[str]) -> Figure:
    """Training loss over batches, of the first seed."""
    figure = Figure(figsize=(4.2 * len(pools) + 1.8, 3.8), layout="constrained")
    panels = figure.subplots(1, len(pools), squeeze=False)[0]
    style = styles(methods)
    for axes, pool in zip(panels, pools, strict=True):
        for method in methods:
            if (pool, method) in results and results[pool, method][0]["losses"]:
                axes.plot(*zip(*results[pool, method][0]["losses"], strict=True), label=method, **style[method])
        axes.set(title=pool.replace("_", "-"), xlabel="batches")
    panels[0].set_ylabel("training loss")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize="small")
    return figure


def write_report(results: Results, rates: Mapping[Group, float], folder: Path) -> str:
    """Write tables and plots into the folder; returns the tables."""
    matplotlib.use("Agg")
    pools = list(dict.fromkeys(pool for pool, _ in results))
    methods = list(dict.fromkeys(method for _, method in results))
    figures = {
        "accuracy_by_batches.png": curves_figure(results, pools, methods, by_cost=False),
        "accuracy_by_cost.png": curves_figure(results, pools, methods, by_cost=True),
        "losses.png": losses_figure(results, pools, methods),
    }
    if REFERENCE in methods:
        figures["to_target.png"] = bars_figure(results, pools, methods)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=130)
    text = "\n\n".join(f"### Pool `{pool}`\n\n{table(pool, results, rates)}" for pool in pools) + "\n"
    (folder / "tables.md").write_text(text)
    return text
