"""The page of a comparison: one sentence, the methods in a table, their curves by work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vecaf_hf.cli.cells import cost
from vecaf_hf.cli.comparison import REFERENCE, Comparison, accuracies
from vecaf_hf.cli.verdict import CONFIDENCE, Difference, to_target, verdict
from vecaf_hf.reporting.page import Page, Picture, Section, Table, write_page
from vecaf_hf.reporting.plots import BLUE, GREEN, GREY, ORANGE, panels

Runs = Mapping[str, Sequence[dict[str, Any]]]

COLOURS = (GREY, BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def write_comparison(comparison: Comparison) -> tuple[str, list[Path]]:
    """Write the page of a comparison that is through; its sentence, and the paths, the page first."""
    runs = comparison.runs()
    found = sentence(runs)
    seeds, rates = len(comparison.seeds), len(comparison.learning_rates)
    lead = [found, f"{seeds} seeds; each method at the best of {rates} learning rates, by the first seed's validation."]
    sections = [
        Section("Methods", tables=[methods_table(comparison, runs)], notes=NOTES),
        Section("Curves", pictures=[Picture("curves", curves(runs), "Validation accuracy of each method by its work")]),
        Section("Learning rates", tables=[rates_table(comparison)]),
    ]
    page = Page("Does a selection pay on these data?", lead, sections)
    return found, write_page(page, comparison.folder / "report")


NOTES = [
    f"Differences are paired by seed; with {CONFIDENCE:.0%} all intervals hold (Student's t, Bonferroni)."
    " Work is all that a run did but evaluation: scoring and selecting too. The last column is the work "
    f"after which the mean curve first reaches {REFERENCE}'s last accuracy, as a part of {REFERENCE}'s."
]


def sentence(runs: Runs) -> str:
    """What the runs tell."""
    costs = {method: _flops(of) / _flops(runs[REFERENCE]) for method, of in runs.items()}
    split = "test" if all("test" in run for of in runs.values() for run in of) else "validation"
    return verdict(differences(runs), costs, REFERENCE, split)


def differences(runs: Runs) -> dict[str, Difference]:
    """Of each method from the reference."""
    reference, others = accuracies(runs[REFERENCE]), [method for method in runs if method != REFERENCE]
    return {method: Difference.of(accuracies(runs[method]), reference, len(others)) for method in others}


def methods_table(comparison: Comparison, runs: Runs) -> Table:
    found, whole = differences(runs), _flops(runs[REFERENCE])
    header = ["method", "accuracy, %", f"less {REFERENCE}'s", "learning rate", "work, TFLOPs", f"of {REFERENCE}'s"]
    header += [f"until {REFERENCE}'s accuracy"]
    rows = []
    for method in sorted(runs, key=lambda method: -fmean(accuracies(runs[method]))):
        [rate, *_] = [cell.learning_rate for cell in comparison.picked(method) or []]
        flops, reached = _flops(runs[method]), _until(runs[method], runs[REFERENCE])
        row = [method, f"{100 * fmean(accuracies(runs[method])):.1f}", str(found.get(method, "")), f"{rate:g}"]
        rows.append([*row, f"{flops / 1e12:.3f}", f"{flops / whole:.2f}", reached])
    return Table(header, rows)


def rates_table(comparison: Comparison) -> Table:
    """Validation accuracy of the first seed at each rate."""
    rows = [
        [method, *(f"{100 * accuracy:.1f}" for accuracy in comparison.tried(method).values())]
        for method in comparison.methods
    ]
    return Table(["method", *(f"{rate:g}" for rate in comparison.learning_rates)], rows)


def curves(runs: Runs) -> Figure:
    """Validation accuracy by work: the mean of the seeds, and each of them."""
    figure, (axes,) = panels(8.6, 4.2, columns=1)
    for number, (method, of) in enumerate(runs.items()):
        colour, (work, accuracy) = COLOURS[number % len(COLOURS)], _curves(of)
        axes.plot(work.mean(0) / 1e12, 100 * accuracy.mean(0), color=colour, label=method, marker="o", markersize=3)
        for one in range(len(of)):
            axes.plot(work[one] / 1e12, 100 * accuracy[one], color=colour, linewidth=0.6, alpha=0.4)
    axes.set(xlabel="all work but evaluation, TFLOPs", ylabel="validation accuracy, %")
    axes.legend(frameon=False)
    return figure


def _curves(runs: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    """Work and accuracy, as far as all seeds have points. [seeds, points] each."""
    points = min(len(run["curve"]) for run in runs)
    work = [[cost(point["work"]) for point in run["curve"][:points]] for run in runs]
    accuracy = [[point["accuracy"] for point in run["curve"][:points]] for run in runs]
    return np.array(work), np.array(accuracy)


def _flops(runs: Sequence[dict[str, Any]]) -> float:
    return fmean(cost(run["curve"][-1]["work"]) for run in runs)


def _until(runs: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> str:
    (work, accuracy), (whole, target) = _curves(runs), _curves(reference)
    reached = to_target(accuracy.mean(0)[None], work.mean(0)[None], target[:, -1].mean()[None])
    return "never" if np.isnan(reached[0]) else f"{reached[0] / whole[:, -1].mean():.2f}"
