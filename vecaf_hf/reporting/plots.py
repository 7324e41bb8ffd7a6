"""A run's pictures: curves over its loops, what was selected, what it cost."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vecaf_hf.cost import KINDS
from vecaf_hf.loop.record import LoopRecord
from vecaf_hf.printable import printable
from vecaf_hf.reporting.report import RunReport

# Okabe and Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
# With more classes than this, a heat map's rows go unlabelled.
LABELLED_CLASSES = 40
# Characters of their names.
LONGEST_NAME = 24
# Up to this many, the heat map's cells show their numbers.
NUMBERED_CELLS = 120


def write_plots(report: RunReport, folder: Path) -> list[Path]:
    """Draw the run's pictures as PNG files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    records, history = report.records, report.history
    figures = {
        "curves.png": curves(records, history),
        "selection.png": selection(records, report.class_names),
        "cost.png": cost(report.work),
    }
    with warnings.catch_warnings():
        # Names in a script that the font lacks are drawn as boxes; their rows are those of the summary's table.
        warnings.filterwarnings("ignore", r"Glyph .* missing from|Matplotlib currently does not support")
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=130)
    return [folder / name for name in figures]


def curves(records: Sequence[LoopRecord], history: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss, the pool's loss at each boundary, and accuracy, over steps, with the loops' boundaries.

    The pool's losses are those that the selection saw: of mixed age with rescore="stale", the probe's with "proxy".
    """
    figure, (losses, accuracies) = panels(9, 3.6, columns=2)
    _line(losses, history, "loss", BLUE, "training")
    _line(losses, history, "eval_loss", ORANGE, "evaluation", marker="o")
    scored = [(record.step, record.pool_loss) for record in records if record.pool_loss is not None]
    if scored:
        losses.plot(*zip(*scored, strict=True), color=GREEN, marker="s", linestyle=":", label="pool, as scored")
    _line(accuracies, history, "eval_accuracy", ORANGE, "evaluation", marker="o")
    for axes, title in ((losses, "Loss"), (accuracies, "Accuracy")):
        for record in records[1:]:
            axes.axvline(record.step, color=GREY, linewidth=0.8, linestyle="--")
        axes.set(title=title, xlabel="optimizer step (dashed: a loop begins)")
        if axes.lines[: len(axes.lines) - len(records[1:])]:
            axes.legend(frameon=False)
    losses.set_ylim(bottom=0)
    return figure


def selection(records: Sequence[LoopRecord], names: Sequence[str]) -> Figure:
    """Selected samples by class and loop, and how many were new in each loop."""
    figure, (by_class, novelty) = panels(9, 4.2, columns=2)
    classes = sorted({label for record in records for label in record.class_counts})
    if classes:
        counts = np.array([[record.class_counts.get(label, 0) for record in records] for label in classes])
        image = by_class.imshow(
            counts,
            aspect="auto",
            cmap="Blues",
            vmin=0,
            vmax=2 * counts.max(),  # light enough for dark numbers
        )
        if counts.size <= NUMBERED_CELLS:
            for (row, column), count in np.ndenumerate(counts):
                by_class.text(column, row, str(count), ha="center", va="center")
        else:
            figure.colorbar(image, ax=by_class, label="selected samples")
        if len(classes) <= LABELLED_CLASSES:
            rows = [printable(names[c] if c < len(names) else c, LONGEST_NAME) for c in classes]
            by_class.set_yticks(range(len(classes)), rows, parse_math=False)
    by_class.set(title="Selected samples by class", xlabel="loop")
    loops = [record.loop for record in records]
    new = [record.new for record in records]
    again = [record.selected - record.new for record in records]
    novelty.bar(loops, new, color=BLUE, label="new")
    novelty.bar(loops, again, bottom=new, color=GREY, label="selected before")
    novelty.set(title="Selected for the first time?", xlabel="loop", ylabel="selected samples")
    novelty.set_ylim(top=1.15 * max((record.selected for record in records), default=1))
    novelty.legend(frameon=False, loc="upper center", ncols=2)
    for axes in (by_class, novelty):
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    return figure


def cost(work: Mapping[str, Mapping[str, float]]) -> Figure:
    """Seconds and FLOPs by kind of work."""
    figure, sides = panels(9, 2.8, columns=2)
    kinds = [kind for kind in KINDS if work[kind]["seconds"] > 0 or work[kind]["flops"] > 0]
    labels = [kind.replace("_", " ") for kind in kinds]
    for axes, unit, divisor in ((sides[0], "seconds", 1.0), (sides[1], "flops", 1e12)):
        values = [work[kind][unit] / divisor for kind in kinds]
        bars = axes.barh(labels, values, color=[BLUE if kind == "train" else ORANGE for kind in kinds])
        axes.bar_label(bars, fmt="%.3g", padding=3)
        axes.margins(x=0.18)
        axes.invert_yaxis()
        axes.set(xlabel="seconds" if unit == "seconds" else "TFLOPs")
    figure.suptitle("What the run cost (blue: training itself)")
    return figure


def panels(width: float, height: float, columns: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with so many axes side by side; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    row = figure.subplots(1, columns, squeeze=False)[0]
    for axes in row:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, row


def _line(
    axes: Axes,
    history: Sequence[Mapping[str, Any]],
    key: str,
    color: str,
    label: str,
    marker: str | None = None,
) -> None:
    points = [(log["step"], log[key]) for log in history if key in log]
    if points:
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, label=label)
