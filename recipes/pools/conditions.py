"""Conditions that images can be under: ImageNet-C's corruptions, and two that need no package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import datasets
from PIL import Image, ImageOps

from pools.corruptions import CORRUPTIONS, check_corruption, corrupted, package_version
from pools.remaking import remade
from vecaf_hf.data.rgb import to_rgb
from vecaf_hf.validation import check_choice


def inverted(picture: Image.Image) -> Image.Image:
    """The negative."""
    return ImageOps.invert(picture)


def rotated(picture: Image.Image) -> Image.Image:
    """Turned by a quarter, to the left."""
    return picture.transpose(Image.Transpose.ROTATE_90)


# They have no severity and draw nothing.
PLAIN: dict[str, Callable[[Image.Image], Image.Image]] = {"inverted": inverted, "rotated": rotated}
CONDITIONS = (*PLAIN, *CORRUPTIONS)


def under_condition(
    dataset: datasets.Dataset,
    image_column: str,
    name: str,
    severity: int,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> datasets.Dataset:
    """Samples with their images under a condition, in RGB unless they are grey (mode L); made once, then from
    `datasets`' cache.

    Args:
        dataset: With a column of images; a transform of it is left out.
        image_column: That column.
        name: One of CONDITIONS.
        severity: 1 to 5, of a corruption.
        seed: Of a corruption, of at least 0; with a sample's place among them it draws the flakes, the noise.
        rows: Positions of the samples; all by default.

    Raises:
        ValueError: There is no such column of images, an image cannot be read, or the name or the severity is none.
        ImportError: The package of the corruptions is not there, and this is one.
    """
    check_condition(name, severity)
    if name in CORRUPTIONS:
        return corrupted(dataset, image_column, name, severity, seed, rows)

    def make(picture: Image.Image, place: int) -> Image.Image:
        return PLAIN[name](picture if picture.mode == "L" else to_rgb(picture))

    return remade(dataset, image_column, make, rows, "a condition", name, [name])


def check_condition(name: str, severity: int, option: str = "condition") -> None:
    """Raise a ValueError that names the option unless these are a condition and a severity."""
    check_choice(option, name, CONDITIONS, or_callable=False)
    if name in CORRUPTIONS:
        check_corruption(name, severity)


def check_can_be_made(name: str) -> None:
    """Raise an ImportError where a condition needs a package that is not there."""
    if name in CORRUPTIONS:
        package_version()
