"""The tables and plots of a grid that `compare.py` has run, from its `results.json`.

python recipes/comparison.py recipes/results/fashion_mnist
"""

from __future__ import annotations

import argparse
import json
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
# Cost nothing but training: what a selection must beat.
FREE = ("full", "random", "balanced", "infobatch")

Point = Mapping[str, Any]  # of a curve: step, accuracy, flops
Measure = Callable[[Point], float]
Run = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Any]]  # "pool/method" -> learning_rate, runs


def cost(work: Mapping[str, Mapping[str, float]]) -> float:
    """FLOPs of all work but evaluation."""
    return sum(part["flops"] for kind, part in work.items() if kind not in NOT_COUNTED)


def summary_of(run: Run) -> dict[str, Any]:
    """What tables and plots need of a cell's result."""
    points = run["curve"]
    work = {kind: {name: round(value, 1) for name, value in of.items()} for kind, of in points[-1]["work"].items()}
    return {
        "curve": [{"step": one["step"], "accuracy": one["accuracy"], "flops": cost(one["work"])} for one in points],
        "losses": run["losses"],
        "test": run.get("test"),
        "work": work,
    }


def steps(point: Point) -> float:
    return point["step"]


def flops(point: Point) -> float:
    return point["flops"]


MEASURES: dict[str, Measure] = {"batches": steps, "cost": flops}


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


def mean_curve(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The seeds' curves averaged point by point; they evaluate at the same steps."""
    return [
        {name: fmean(point[name] for point in points) for name in ("step", "accuracy", "flops")}
        for points in zip(*(run["curve"] for run in runs), strict=True)
    ]


def ends(runs: Sequence[Run]) -> list[float]:
    """Accuracy of each run's end, %: on the test split, or on validation where nothing was tested."""
    return [100 * (run["curve"][-1]["accuracy"] if run["test"] is None else run["test"]) for run in runs]


def with_error(values: Sequence[float], sign: str = "") -> str:
    """Mean and standard error."""
    mean = f"{fmean(values):{sign}.1f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values) / len(values) ** 0.5:.1f}"


def methods_of(results: Results, pool: str) -> dict[str, Mapping[str, Any]]:
    return {name.split("/")[1]: found for name, found in results.items() if name.split("/")[0] == pool}


def references(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`full`, and the best of the methods that cost nothing but training, by validation."""
    free = [method for method in FREE if method in found]
    best = sorted(free, key=lambda method: -mean_curve(found[method]["runs"])[-1]["accuracy"])[:1]
    return list(dict.fromkeys([method for method in (REFERENCE,) if method in found] + best))


def table(results: Results, pool: str) -> str:
    """One row a method: accuracy, rate, work, and batches and cost to the accuracy that the references end with."""
    found = methods_of(results, pool)
    curves = {method: mean_curve(entry["runs"]) for method, entry in found.items()}
    tested = all(run["test"] is not None for entry in found.values() for run in entry["runs"])
    header = ["method", f"{'test' if tested else 'validation'} accuracy, %", "n", "learning rate", "samples scored"]
    header += ["all-in TFLOPs"]
    opponents = references(found)
    for method in opponents:
        header += [f"accuracy less `{method}`'s, paired"]
        header += [f"{name} to `{method}`'s last accuracy, of its" for name in MEASURES]
    rows = []
    for method in sorted(found, key=lambda method: -fmean(ends(found[method]["runs"]))):
        runs = found[method]["runs"]
        cells = [f"`{method}`", with_error(ends(runs)), str(len(runs)), f"{found[method]['learning_rate']:g}"]
        scored = fmean(run["work"]["score"]["samples"] for run in runs)
        cells += [f"{scored:,.0f}", f"{curves[method][-1]['flops'] / 1e12:.2f}"]
        for opponent in opponents:
            pairs = zip(ends(runs), ends(found[opponent]["runs"]), strict=True)
            cells.append(with_error([one - other for one, other in pairs], sign="+") if method != opponent else "")
            target = curves[opponent][-1]["accuracy"]
            cells += [
                _part(to_target(curves[method], target, measure), to_target(curves[opponent], target, measure))
                for measure in MEASURES.values()
            ]
        rows.append(cells)
    return _markdown([header, *rows])


def cost_table(results: Results, pool: str) -> str:
    """One row a method: TFLOPs and seconds by kind of work (Table 4 of the paper, with the passes it leaves out)."""
    found = methods_of(results, pool)
    kinds = list(dict.fromkeys(kind for entry in found.values() for kind in entry["runs"][0]["work"]))
    kinds = [kind for kind in kinds if any(_mean_work(entry, kind)["flops"] for entry in found.values())]
    rows = [["method", *(f"`{kind}`, TFLOPs (s)" for kind in kinds)]]
    for method, entry in found.items():
        parts = [_mean_work(entry, kind) for kind in kinds]
        cells = [f"{part['flops'] / 1e12:.2f} ({part['seconds']:.0f})" if part["flops"] else "" for part in parts]
        rows.append([f"`{method}`", *cells])
    return _markdown(rows)


def _mean_work(entry: Mapping[str, Any], kind: str) -> dict[str, float]:
    parts = [run["work"].get(kind, {"flops": 0.0, "seconds": 0.0}) for run in entry["runs"]]
    return {name: fmean(part[name] for part in parts) for name in ("flops", "seconds")}


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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
            if f"{pool}/{method}" in results:
                curve = mean_curve(results[f"{pool}/{method}"]["runs"])
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
        curves = {method: mean_curve(entry["runs"]) for method, entry in methods_of(results, pool).items()}
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
            entry = results.get(f"{pool}/{method}")
            if entry is not None and entry["runs"][0]["losses"]:
                axes.plot(*zip(*entry["runs"][0]["losses"], strict=True), label=method, **style[method])
        axes.set(title=pool.replace("_", "-"), xlabel="batches")
    panels[0].set_ylabel("training loss")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize="small")
    return figure


def write_report(results: Results, folder: Path) -> str:
    """Write tables and plots into the folder; returns the tables."""
    matplotlib.use("Agg")
    pools = list(dict.fromkeys(name.split("/")[0] for name in results))
    methods = list(dict.fromkeys(name.split("/")[1] for name in results))
    figures = {
        "accuracy_by_batches.png": curves_figure(results, pools, methods, by_cost=False),
        "accuracy_by_cost.png": curves_figure(results, pools, methods, by_cost=True),
        "losses.png": losses_figure(results, pools, methods),
    }
    if REFERENCE in methods:
        figures["to_target.png"] = bars_figure(results, pools, methods)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    sections = [f"### Pool `{pool}`\n\n{table(results, pool)}\n\n{cost_table(results, pool)}\n" for pool in pools]
    text = "\n".join(sections)
    (folder / "tables.md").write_text(text)
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where results.json is, and tables and plots go.")
    folder = parser.parse_args().folder
    print(write_report(json.loads((folder / "results.json").read_text()), folder))
