"""Images in rows, each with what there is to say of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vecaf_hf.printable import printable
from vecaf_hf.reporting.plots import GREY

COLUMNS = 6
# Characters of a line under an image, lines, and inches of one.
LINE, LINES, LINE_HEIGHT = 21, 5, 0.155
IMAGE_HEIGHT, HEADING_HEIGHT, WIDTH = 1.3, 0.34, 8.6
# Pixels to which an image is shrunk.
LARGEST = 256


@dataclass(frozen=True)
class Tile:
    """An image and its lines; the image is None where it cannot be shown."""

    image: Image.Image | None
    lines: Sequence[str]


def contact_sheet(groups: Sequence[tuple[str, Sequence[Tile]]], columns: int = COLUMNS) -> Figure:
    """Groups of tiles under each other, each with its heading; groups without tiles are left out.

    Args:
        groups: (heading, tiles).
        columns: Tiles in a row.
    """
    groups = [(heading, tiles) for heading, tiles in groups if tiles]
    texts = [[_wrapped(tile.lines, columns) for tile in tiles] for _, tiles in groups]
    # More columns are narrower.
    image_height = IMAGE_HEIGHT * min(1.0, COLUMNS / columns)
    heights = []
    for group in texts:
        most = max(len(lines) for lines in group)
        rows = -(-len(group) // columns)
        heights.append(HEADING_HEIGHT + rows * (image_height + LINE_HEIGHT * most + 0.1))
    figure = Figure(figsize=(WIDTH, sum(heights)))
    parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (heading, tiles), lines, height in zip(parts, groups, texts, heights, strict=True):
        # Above the tiles: their positions are set by hand, that their texts have the room they need.
        part.text(0.01, 1 - 0.2 / height, heading, fontsize=10, fontweight="bold", va="center", parse_math=False)
        row_height = (height - HEADING_HEIGHT) / (-(-len(tiles) // columns))
        for place, (tile, text) in enumerate(zip(tiles, lines, strict=True)):
            row, column = divmod(place, columns)
            top = height - HEADING_HEIGHT - row * row_height
            axes = part.add_axes(
                ((column + 0.06) / columns, (top - image_height) / height, 0.88 / columns, image_height / height)
            )
            _show(axes, tile.image)
            y = (top - image_height - 0.06) / height
            x = (column + 0.06) / columns
            part.text(x, y, "\n".join(text), fontsize=7.5, va="top", linespacing=1.2, parse_math=False)
    return figure


def _wrapped(lines: Sequence[str], columns: int) -> list[str]:
    width = LINE * COLUMNS // columns
    found = [part for line in lines for part in textwrap.wrap(printable(line), width) or [""]]
    return found if len(found) <= LINES else [*found[: LINES - 1], found[LINES - 1][: width - 1] + "…"]


def _show(axes: Axes, image: Image.Image | None) -> None:
    axes.set_axis_off()
    axes.set_anchor("SW")
    if image is None:
        axes.text(0.5, 0.5, "no image", color=GREY, ha="center", va="center")
        return
    # A grey one too would get a colour map.
    shown = image.convert("RGB")
    shown.thumbnail((LARGEST, LARGEST))
    # An image that is smaller than its tile shows its pixels.
    axes.imshow(shown, interpolation="nearest" if max(image.size) < LARGEST else "antialiased")
