"""Images made of a dataset's own, before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
from datasets.fingerprint import Hasher
from PIL import Image

from vecaf_hf.data.stored_images import LoadImage, raw_images
from vecaf_hf.printable import printable

# (image, its place among those that are made) -> another image.
MakeImage = Callable[[Image.Image, int], Image.Image]


def source_images(dataset: Any, column: str, reader: str) -> LoadImage:
    """The images of a `datasets.Dataset` by position, as they are stored, to make others of them before training.

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


def remade(
    dataset: datasets.Dataset,
    column: str,
    make: MakeImage,
    rows: Sequence[int] | None,
    reader: str,
    description: str,
    depends_on: Sequence[Any],
) -> datasets.Dataset:
    """Samples with other images made of theirs, once, and from `datasets`' cache whenever they are asked for again.

    Args:
        dataset: With a column of images; a transform of it is left out.
        column: That column.
        make: Makes one, the same one whenever it is called.
        rows: Positions of the samples; None for all.
        reader: Who asks, for messages.
        description: Of the progress bar.
        depends_on: Whatever else the images depend on; by itself, `map` does not see what `make` goes by.

    Raises:
        ValueError: There is no such column of images, or an image cannot be read.
    """
    load = source_images(dataset, column, reader)
    positions = range(len(dataset)) if rows is None else rows
    chosen = dataset.with_format(None).select(positions)

    def apply(sample: Any, place: int) -> dict[str, Image.Image]:
        return {column: make(load(positions[place]), place)}

    return chosen.map(
        apply,
        with_indices=True,
        features=dataset.features,
        new_fingerprint=Hasher.hash([chosen._fingerprint, column, *depends_on]),
        desc=description,
    )
