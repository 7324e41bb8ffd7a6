"""An inspection's pictures: what a run will cost, and how its selection lies in the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vecaf_hf.cost import KINDS, Work
from vecaf_hf.inspection.budget import Budget
from vecaf_hf.inspection.embedding_map import BOTH, NEITHER, OTHERS, OURS, EmbeddingMap
from vecaf_hf.inspection.shares import ClassShare, Histogram, class_parts
from vecaf_hf.printable import printable
from vecaf_hf.reporting.plots import BLUE, GREEN, GREY, LABELLED_CLASSES, LONGEST_NAME, ORANGE, panels

WIDTH = 8.6
# Okabe and Ito's palette.
COLOURS = {
    "score": "#D55E00",
    "select": "#E69F00",
    "caption": "#F0E442",
    "encode_text": "#CC79A7",
    "auxiliary": "#999999",
    "train": "#0072B2",
    "evaluate": "#56B4E9",
}
UNITS = {"flops": ("TFLOPs", 1e12), "seconds": ("seconds, estimated", 1.0)}


def budget(cost: Budget) -> Figure:
    """FLOPs and seconds by kind of work: of the run beside plain finetuning, and of each loop."""
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    rows = figure.subplots(2, 2, height_ratios=(1, 1.9))
    kinds = [kind for kind in KINDS if any(_has(loop[kind]) for loop in cost.loops)]
    for column, (unit, (label, divisor)) in enumerate(UNITS.items()):
        totals = [("plain\nfinetuning", cost.plain), ("this run", cost.total)]
        _stacked(rows[0, column], totals, kinds, unit, divisor, horizontal=True)
        rows[0, column].set(xlabel=label, title="All loops" if column == 0 else "All loops, here")
        loops = [(str(number), loop) for number, loop in enumerate(cost.loops)]
        _stacked(rows[1, column], loops, kinds, unit, divisor, horizontal=False)
        rows[1, column].set(xlabel="loop", ylabel=label, title="By loop")
        if len(loops) > 20:
            rows[1, column].xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(10, integer=True))
    handles = [matplotlib.patches.Patch(color=COLOURS[kind], label=kind.replace("_", " ")) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False)
    return figure


def _has(work: Work) -> bool:
    return work.flops > 0 or work.seconds > 0


def _stacked(
    axes: Axes,
    bars: Sequence[tuple[str, Mapping[str, Work]]],
    kinds: Sequence[str],
    unit: str,
    divisor: float,
    horizontal: bool,
) -> None:
    names = [name for name, _ in bars]
    before = np.zeros(len(bars))
    for kind in kinds:
        values = np.array([getattr(work.get(kind, Work()), unit) / divisor for _, work in bars])
        if horizontal:
            axes.barh(names, values, left=before, color=COLOURS[kind], height=0.62)
        else:
            axes.bar(names, values, bottom=before, color=COLOURS[kind], width=0.62)
        before = before + values
    axes.spines[["top", "right"]].set_visible(False)


def classes(shares: Sequence[ClassShare]) -> Figure:
    """Each class's part of the pool and of the selection; of many classes those whose parts differ most."""
    parts = [
        (one.name, 100 * pool, 100 * selected)
        for one, (pool, selected) in zip(shares, class_parts(shares), strict=True)
    ]
    shown = parts
    if len(parts) > LABELLED_CLASSES:
        differing = sorted(range(len(parts)), key=lambda row: -abs(parts[row][2] - parts[row][1]))
        shown = [parts[row] for row in sorted(differing[:LABELLED_CLASSES])]
    figure, (axes,) = panels(WIDTH, 0.9 + 0.27 * len(shown), columns=1)
    rows = np.arange(len(shown))
    axes.barh(rows - 0.19, [part[1] for part in shown], height=0.36, color=GREY, label="pool")
    axes.barh(rows + 0.19, [part[2] for part in shown], height=0.36, color=BLUE, label="selected")
    axes.set_yticks(rows, [printable(part[0], LONGEST_NAME) for part in shown], parse_math=False)
    axes.invert_yaxis()
    axes.margins(y=0.02)
    title = "Classes" if len(shown) == len(parts) else f"The {len(shown)} classes of {len(parts)} that differ most"
    axes.set(xlabel="part of all samples, %", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def losses(histograms: Mapping[str, Histogram]) -> Figure:
    """Histograms of losses, one panel each, by what gave the losses."""
    figure, row = panels(WIDTH, 3.1, columns=len(histograms))
    for axes, (title, found) in zip(row, histograms.items(), strict=True):
        edges = np.array(found.edges)
        axes.stairs(100 * np.array(found.pool), edges, fill=True, color="#CCCCCC", label="pool")
        axes.stairs(100 * np.array(found.selected), edges, color=BLUE, linewidth=1.6, label="selected")
        axes.set(xlabel="loss (the last bin holds all above it)", ylabel="part of the samples, %", title=title)
        axes.set_ylim(bottom=0)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def embedding_map(found: EmbeddingMap, strategy: str) -> Figure:
    """Candidates in the plane: those on a boundary dark, the selected on top by whose selection they are in."""
    figure, (axes,) = panels(WIDTH, 5.2, columns=1)
    x, y, chosen = np.array(found.x), np.array(found.y), np.array(found.chosen)
    boundary = np.array(found.on_boundary, dtype=bool) if found.on_boundary else np.zeros(len(x), dtype=bool)
    name = printable(strategy, LONGEST_NAME)
    layers = [
        (chosen == NEITHER, {"color": "#CFCFCF", "s": 9, "marker": "o"}, "not selected"),
        (chosen == OTHERS, {"color": ORANGE, "s": 24, "marker": "^"}, "selected by activeft only"),
        (chosen == OURS, {"color": BLUE, "s": 22, "marker": "o"}, f"selected by {name} only"),
        (chosen == BOTH, {"color": GREEN, "s": 24, "marker": "s"}, "selected by both"),
    ]
    if not (chosen >= OTHERS).any():
        layers[2] = (layers[2][0], layers[2][1], f"selected by {name}")
    for rows, style, label in layers:
        if rows.any():
            axes.scatter(x[rows], y[rows], linewidths=0, label=f"{label} ({rows.sum():,})", **style)  # type: ignore[arg-type]
    if boundary.any():
        axes.scatter(
            x[boundary],
            y[boundary],
            s=34,
            facecolors="none",
            edgecolors="black",
            linewidths=0.6,
            label=f"on a class boundary ({boundary.sum():,})",
        )
    explained = "" if found.explained is None else f", {100 * found.explained:.0f} % of the variance"
    axes.set(title=f"Embeddings of {len(x):,} candidates in the plane ({found.method}{explained})")
    axes.set(xlabel=f"{found.method} 1 (no unit)", ylabel=f"{found.method} 2 (no unit)", xticks=[], yticks=[])
    axes.set_title(axes.get_title(), parse_math=False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure
