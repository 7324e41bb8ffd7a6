"""A dataset's images as they are stored, read before training to make others of them."""

from __future__ import annotations

from typing import Any

from PIL import Image

from vecaf_hf.augmentation.captioning import LoadImage, raw_images
from vecaf_hf.printable import printable


def source_images(dataset: Any, column: str, reader: str) -> LoadImage:
    """The images of a `datasets.Dataset` by position, as they are stored, whatever transform it has.

    Args:
        dataset: Holds them.
        column: Where.
        reader: Who asks, for messages.

    Raises:
        ValueError: There is no such column of images; later, of an image that cannot be read.
    """
    # Its images are in RGB, and it is not told any more which were grey; its checks are ours.
    raw_images(dataset, column, reader, "name the column of images")
    stored = dataset.with_format(None).select_columns([column])

    def load(position: int) -> Image.Image:
        what, advice = f"the image of sample {position} (column {column!r})", "mend it, or leave the sample out"
        try:
            image = stored[position][column]
        except Exception as error:  # Of any type: a decoder's, the file system's.
            reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))
            raise ValueError(f"{what} cannot be read ({reason}): {advice}") from error
        if image is None:
            raise ValueError(f"{what} is missing: {advice}")
        return image

    return load
