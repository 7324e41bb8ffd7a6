"""A dataset's images by position, whatever transform it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
from PIL import Image

from vecaf_hf.data.rgb import to_rgb
from vecaf_hf.printable import listed

LoadImage = Callable[[int], Image.Image]


def raw_images(dataset: Any, column: str, reader: str, advice: str) -> LoadImage:
    """The images of a `datasets.Dataset` by position, in RGB, whatever transform it has.

    Raises:
        ValueError: There is no such column of images; the message begins with who reads them and ends with the advice.
    """
    wanted = f"{reader} reads raw images from the column {column!r} of a datasets.Dataset, and"
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(f"{wanted} the dataset is a {type(dataset).__name__}: {advice}")
    if not isinstance(dataset.features.get(column), datasets.Image):
        there = f"holds {dataset.features[column]}" if column in dataset.features else "is not there"
        raise ValueError(f"{wanted} that {there} (columns: {listed(dataset.column_names)}): {advice}")
    raw = dataset.with_format(None).select_columns([column])
    return lambda index: to_rgb(raw[index][column])
