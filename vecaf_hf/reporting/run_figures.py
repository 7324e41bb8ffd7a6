"""A run's pictures that `plots` has not: how its selections overlap, and what CEA did."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from vecaf_hf.loop.record import LoopRecord
from vecaf_hf.reporting.plots import BLUE, GREY, NUMBERED_CELLS, ORANGE, panels

WIDTH = 8.6


def overlap(shares: Sequence[Sequence[float]], covered: Sequence[int], pool_size: int) -> Figure:
    """The part of each loop's selection that the others selected too, and the part of the pool selected so far."""
    figure, (matrix, coverage) = panels(WIDTH, 3.6, columns=2)
    parts = 100 * np.array(shares)
    image = matrix.imshow(parts, cmap="Blues", vmin=0, vmax=200, aspect="equal")  # light enough for dark numbers
    if parts.size <= NUMBERED_CELLS:
        for (row, column), part in np.ndenumerate(parts):
            matrix.text(column, row, f"{part:.0f}", ha="center", va="center", fontsize=9)
    else:
        image.set_clim(0, 100)
        figure.colorbar(image, ax=matrix, label="%")
    matrix.set(title="Selected in both loops, % of a row's selection", xlabel="loop", ylabel="loop")
    loops = range(len(covered))
    coverage.plot(loops, [100 * count / max(1, pool_size) for count in covered], color=BLUE, marker="o", markersize=4)
    coverage.set(title="Selected so far", xlabel="loop", ylabel="part of the pool, %")
    coverage.set_ylim(bottom=0)
    for axis in (matrix.xaxis, matrix.yaxis, coverage.xaxis):
        axis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    return figure


def augmentation(records: Sequence[LoopRecord], attention: Tensor | None) -> Figure:
    """CEA by loop: the strongest attention and the mean shift; and the last loop's alpha, where it is known."""
    figure, row = panels(WIDTH, 3.1, columns=2 if attention is None else 3)
    loops = [record.loop for record in records]
    for axes, name, title, label in (
        (row[0], "cea_alpha_max", "Strongest attention", "largest alpha (no unit)"),
        (row[1], "cea_relative_shift", "Shift of embeddings", "mean shift / norm (no unit)"),
    ):
        axes.plot(loops, [record.info.get(name, np.nan) for record in records], color=BLUE, marker="o", markersize=4)
        axes.set(title=title, xlabel="loop", ylabel=label)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
    if attention is not None:
        row[2].hist(attention.numpy(), bins=30, color=GREY)
        row[2].axvline(float(attention.mean()), color=ORANGE, linewidth=1.2, linestyle="--")
        row[2].set(title="Attention, last loop", xlabel="alpha (dashed: mean)", ylabel="selected samples")
    return figure
