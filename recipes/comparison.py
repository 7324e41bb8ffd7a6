"""What tables and figures of a grid say of its methods: accuracy, cost, what a method takes until an accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from readings import Array, readings

from vecaf_hf.cli.cells import cost
from vecaf_hf.cli.verdict import to_target

REFERENCE = "full"
# Cost nothing but training: what a selection must beat.
FREE = ("full", "random", "balanced", "infobatch")

# By strategy: what a reader of its rows must know.
NOTES = {
    "rho_loss": "fits its small model on the validation split: whatever is read there, as its learning rate and its "
    "batches and cost until an accuracy, is not held out.",
    "infobatch": "saves batches where epochs are counted; here every method makes the same number of them, and what it "
    "prunes makes room for other samples. Where a run is shorter than an epoch, it is nearly `full`.",
}
# Of seeds, for the error of a ratio.
RESAMPLES = 1000
# Of a curve's points: in what unit and under what name they are drawn.
AXES = {
    "step": (1.0, "batches"),
    "flops": (1e-12, "all work but evaluation, TFLOPs"),
    "accuracy": (100.0, "validation accuracy, %"),
    "loss": (1.0, "validation loss"),
}
# What curves have too where each of their points was seen under targets.
UNDER_TARGETS = {
    "targets": (100.0, "validation accuracy, mean over conditions, %"),
    "worst": (100.0, "validation accuracy, worst condition, %"),
}
# What an accuracy is reached with, and its name among a curve's points.
SPENT = {"batches": "step", "cost": "flops"}

Run = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Any]]  # "pool/method" -> strategy, learning_rate, tried, runs


def summary_of(run: Run) -> dict[str, Any]:
    """What tables and plots need of a cell's result."""
    points = run["curve"]
    work = {kind: {name: round(value, 1) for name, value in of.items()} for kind, of in points[-1]["work"].items()}
    read = ("step", "accuracy", "loss")
    curve = [{**{name: one[name] for name in read}, "flops": cost(one["work"])} for one in points]
    for point, one in zip(curve, points, strict=True):
        point |= {name: one[name] for name in ("targets",) if name in one}
    more = {name: run[name] for name in ("targets", "domains", "measures", "by_shares") if name in run}
    if "records" in run:
        more["records"] = [{name: round(value, 4) for name, value in one["info"].items()} for one in run["records"]]
    return {"curve": curve, "test": run.get("test"), "work": work, **more}


def curves(runs: Sequence[Run]) -> dict[str, Array]:
    """Each quantity of the seeds' curves, which are evaluated at the same steps: [seeds, points]."""
    points = [
        [{**point, **readings(point["accuracy"], point.get("targets"))} for point in run["curve"]] for run in runs
    ]
    names = [*AXES, *(name for name in UNDER_TARGETS if all(name in point for run in points for point in run))]
    return {name: np.array([[point[name] for point in run] for run in points], dtype=float) for name in names}


def mean_curve(runs: Sequence[Run]) -> dict[str, Array]:
    """The seeds' curves averaged point by point: [points]."""
    return {name: values.mean(0) for name, values in curves(runs).items()}


class Part(NamedTuple):
    """What a method takes until an accuracy, as a part of a whole run; its standard error; and the share of the
    resamples that get there, of which the error is."""

    value: float
    error: float
    share: float

    @property
    def never(self) -> bool:
        return bool(np.isnan(self.value))

    def __str__(self) -> str:
        if self.never:
            return "never"
        error = "" if np.isnan(self.error) else f" ± {self.error:.2f}"
        return f"{self.value:.2f}{error}" + (f" (in {min(self.share, 0.99):.0%})" if self.share < 1 else "")


NEVER = Part(float("nan"), float("nan"), 0.0)


def part_of_whole(runs: Sequence[Run], reference: Sequence[Run], measure: str, reading: str = "accuracy") -> Part:
    """What a method takes until its mean curve first reaches the accuracy that the reference's ends with, as a part of
    what the reference's whole run takes; or another reading, as `curves` names it.

    NEVER where the mean curve, or that of most resamples, does not reach it. The reference's own part is below 1 where
    its curve has been there before its end: that much is noise. The error is by bootstrap, seeds are drawn anew, the
    same ones of both; NaN for a single seed.
    """
    seeds = len(runs)
    drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    rows = np.concatenate([np.arange(seeds)[None], drawn])  # the first one is all seeds
    mine, its = ({name: of[rows].mean(1) for name, of in curves(which).items()} for which in (runs, reference))
    parts = to_target(mine[reading], mine[measure], its[reading][:, -1]) / its[measure][:, -1]
    reached = parts[1:][np.isfinite(parts[1:])]
    if np.isnan(parts[0]) or 2 * len(reached) < RESAMPLES:
        return NEVER
    # The seeds' own mean is nearer to them than the true one, as where a variance is divided by n - 1.
    error = reached.std() * (seeds / (seeds - 1)) ** 0.5 if seeds > 1 else float("nan")
    return Part(float(parts[0]), float(error), len(reached) / RESAMPLES)


def ends(runs: Sequence[Run]) -> list[float]:
    """Accuracy of each run's end, %: on the test split, or on validation where nothing was tested."""
    return [100 * (run["curve"][-1]["accuracy"] if run["test"] is None else run["test"]) for run in runs]


def with_error(values: Sequence[float], sign: str = "") -> str:
    """Mean and standard error."""
    mean = f"{fmean(values):{sign}.1f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values) / len(values) ** 0.5:.1f}"


def differences(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Seed by seed."""
    return [one - other for one, other in zip(values, others, strict=True)]


def _less(runs: Sequence[Run], others: Sequence[Run]) -> str:
    return with_error(differences(ends(runs), ends(others)), sign="+")


def _split(entries: Iterable[Mapping[str, Any]]) -> str:
    return "test" if all(run["test"] is not None for entry in entries for run in entry["runs"]) else "validation"


def pools_of(results: Results) -> list[str]:
    return list(dict.fromkeys(name.split("/")[0] for name in results))


def has(name: str, results: Results) -> bool:
    """Whether runs tell this beside their curve, as `targets` or `measures`."""
    return any(name in run for entry in results.values() for run in entry["runs"])


def all_methods(results: Results) -> list[str]:
    """Those of any pool."""
    return list(dict.fromkeys(name.split("/")[1] for name in results))


def methods_of(results: Results, pool: str) -> dict[str, Mapping[str, Any]]:
    return {name.split("/")[1]: found for name, found in results.items() if name.split("/")[0] == pool}


def references(found: Mapping[str, Mapping[str, Any]], reading: str = "accuracy") -> list[str]:
    """`full`, and the best of the methods that cost nothing but training, by that reading of validation or, where none
    has it, by accuracy."""
    free = {method: mean_curve(found[method]["runs"]) for method in FREE if method in found}
    by = reading if all(reading in curve for curve in free.values()) else "accuracy"
    best = sorted(free, key=lambda method: -free[method][by][-1])[:1]
    return list(dict.fromkeys([method for method in (REFERENCE,) if method in found] + best))


def tflops(runs: Sequence[Run]) -> str:
    """All work of a run but evaluation, the seeds' mean."""
    return f"{mean_curve(runs)['flops'][-1] / 1e12:.2f}"


def rate(entry: Mapping[str, Any]) -> str:
    """The picked learning rate, and whether a better one may lie beyond those that were tried."""
    picked, tried = entry["learning_rate"], [one["learning_rate"] for one in entry["tried"]]
    edges = {max(tried): " (highest tried)", min(tried): " (lowest tried)"} if len(set(tried)) > 1 else {}
    return f"{picked:g}{edges.get(picked, '')}"


def table(results: Results, pool: str) -> str:
    """One row a method: accuracy, rate, work, and what it takes until its mean validation curve first reaches the
    accuracy that a reference's ends with, as a part of what the reference's whole run takes."""
    found = methods_of(results, pool)
    header = ["method", f"{_split(found.values())} accuracy, %", "n", "learning rate", "samples scored"]
    header += ["all-in TFLOPs"]
    opponents = references(found)
    for method in opponents:
        header += [f"accuracy less `{method}`'s, paired"]
        header += [f"{name} until first at `{method}`'s last accuracy, of its whole run" for name in SPENT]
    rows = []
    for method in sorted(found, key=lambda method: -fmean(ends(found[method]["runs"]))):
        runs = found[method]["runs"]
        cells = [f"`{method}`", with_error(ends(runs)), str(len(runs)), rate(found[method])]
        scored = fmean(run["work"]["score"]["samples"] for run in runs)
        cells += [f"{scored:,.0f}", tflops(runs)]
        for opponent in opponents:
            reference = found[opponent]["runs"]
            cells.append(_less(runs, reference) if method != opponent else "")
            cells += [str(part_of_whole(runs, reference, measure)) for measure in SPENT.values()]
        rows.append(cells)
    return markdown([header, *rows])


def short_table(results: Results) -> str:
    """One row a method on a pool, of what the READMEs speak of; every pool has REFERENCE, or none has."""
    header = ["pool", "method", "learning rate", "batches", f"{_split(results.values())} accuracy, %", "all-in TFLOPs"]
    compares = any(name.endswith(f"/{REFERENCE}") for name in results)
    if compares:
        header.insert(-1, f"less `{REFERENCE}`'s, paired")
        header += [f"cost until `{REFERENCE}`'s last accuracy, of its whole run"]
    rows = [header]
    for name in sorted(results, key=lambda name: (name.split("/")[0], -fmean(ends(results[name]["runs"])))):
        pool, method = name.split("/")
        runs = results[name]["runs"]
        batches = f"{mean_curve(runs)['step'][-1]:.0f}"
        cells = [f"`{pool}`", f"`{method}`", rate(results[name]), batches, with_error(ends(runs)), tflops(runs)]
        if compares:
            its = results[f"{pool}/{REFERENCE}"]["runs"]
            cells.insert(-1, "" if method == REFERENCE else _less(runs, its))
            cells.append(str(part_of_whole(runs, its, SPENT["cost"])))
        rows.append(cells)
    return markdown(rows)


def notes(results: Results, pool: str) -> str:
    """A paragraph for each method that has one."""
    found = methods_of(results, pool)
    return "".join(f"\n`{m}` {NOTES[e['strategy']]}\n" for m, e in found.items() if e["strategy"] in NOTES)


def cost_table(results: Results, pool: str) -> str:
    """One row a method: TFLOPs and seconds by kind of work (Table 4 of the paper, with the passes it leaves out)."""
    found = methods_of(results, pool)
    kinds = list(dict.fromkeys(kind for entry in found.values() for kind in entry["runs"][0]["work"]))
    kinds = [kind for kind in kinds if any(any(_mean_work(entry, kind).values()) for entry in found.values())]
    rows = [["method", *(f"`{kind}`, TFLOPs (s)" for kind in kinds)]]
    for method, entry in found.items():
        parts = [_mean_work(entry, kind) for kind in kinds]
        cells = [f"{part['flops'] / 1e12:.2f} ({part['seconds']:.1f})" if any(part.values()) else "" for part in parts]
        rows.append([f"`{method}`", *cells])
    return markdown(rows)


def _mean_work(entry: Mapping[str, Any], kind: str) -> dict[str, float]:
    parts = [run["work"].get(kind, {"flops": 0.0, "seconds": 0.0}) for run in entry["runs"]]
    return {name: fmean(part[name] for part in parts) for name in ("flops", "seconds")}


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a line for each method: a palette that colour-blind readers tell apart, then other dashes."""
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
    dashes = ["-", "--", ":", "-."]
    return {
        method: {"color": colours[i % len(colours)], "linestyle": dashes[i // len(colours) % len(dashes)]}
        for i, method in enumerate(methods)
    }


def curves_figure(results: Results, pools: Sequence[str], methods: Sequence[str], x: str, y: str) -> Figure:
    """One quantity of the mean curves against another, one panel a pool."""
    axis = {**AXES, **UNDER_TARGETS}
    figure = Figure(figsize=(4.2 * len(pools) + 1.8, 3.8), layout="constrained")
    panels = figure.subplots(1, len(pools), squeeze=False)[0]
    style = styles(methods)
    for axes, pool in zip(panels, pools, strict=True):
        for method, entry in methods_of(results, pool).items():
            curve = mean_curve(entry["runs"])
            if y not in curve:
                continue
            across, up = (curve[name] * axis[name][0] for name in (x, y))
            axes.plot(across, up, label=method, linewidth=1.6, **style[method])
        axes.set(title=pool.replace("_", "-"), xlabel=axis[x][1])
        if x == "flops":
            axes.set_xscale("log")
    panels[0].set_ylabel(axis[y][1])
    # A grid that is not through has not all methods on every pool.
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    shown = [method for method in methods if method in lines]
    figure.legend(
        [lines[method] for method in shown], shown, loc="outside right center", frameon=False, fontsize="small"
    )
    return figure


def bars_figure(results: Results, pools: Sequence[str], methods: Sequence[str]) -> Figure:
    """Batches and cost until the accuracy that `full` ends with, as parts of what its whole run takes."""
    figure = Figure(figsize=(4.2 * len(pools), 0.32 * len(methods) * 2 + 2), layout="constrained")
    panels = figure.subplots(2, len(pools), squeeze=False, sharey=True)
    for column, pool in enumerate(pools):
        runs = {method: entry["runs"] for method, entry in methods_of(results, pool).items()}
        for row, (name, measure) in enumerate(SPENT.items()):
            axes = panels[row][column]
            parts = [part_of_whole(mine, runs[REFERENCE], measure) for mine in runs.values()]
            values, errors = np.nan_to_num([(part.value, part.error) for part in parts]).T
            colour = "#0072B2" if row == 0 else "#009E73"
            places = [methods.index(method) for method in runs]
            axes.barh(places, values, xerr=errors, color=colour, ecolor="#999999")
            for place, part in zip(places, parts, strict=True):
                axes.text(0, place, "  never" if part.never else "", va="center", fontsize="small")
            axes.axvline(1, color="#999999", linewidth=0.8, linestyle="--")
            axes.set(title=pool.replace("_", "-") if row == 0 else "", xlabel=f"{name}, of `{REFERENCE}`'s")
            axes.set_yticks(range(len(methods)), methods)
    panels[0][0].invert_yaxis()
    return figure
