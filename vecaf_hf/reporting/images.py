"""The picture of a sample, whatever kind of dataset it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vecaf_hf.data.rgb import to_rgb
from vecaf_hf.seeding import seeded

ImageOf = Callable[[int], "Image.Image | None"]


def images_of(dataset: Any) -> ImageOf:
    """A function from a position to the image there, None where there is none that can be shown.

    Of a `datasets.Dataset` with a column of images it is the image as stored, else what an item holds: a PIL image, or
    the first tensor [c, h, w] with its values stretched to what can be seen.
    """
    column = None
    if isinstance(dataset, datasets.Dataset):
        column = next((name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)), None)
    raw = dataset if column is None else dataset.with_format(None)

    def image(index: int) -> Image.Image | None:
        try:
            # Transforms may draw from the global generators.
            with seeded(0):
                item = raw[index]
            found = next(_pictures(item if column is None else item[column]), None)
            return None if found is None else to_rgb(found)
        except Exception:
            # A page is worth having without one of its pictures, whatever a decoder or a transform raises.
            return None

    return image


def _pictures(item: Any) -> Iterator[Image.Image]:
    if isinstance(item, Image.Image):
        yield item
    elif isinstance(item, Tensor) and item.dim() == 3 and item.shape[0] in (1, 3):
        yield _from_tensor(item)
    elif isinstance(item, Mapping):
        for value in item.values():
            yield from _pictures(value)
    elif isinstance(item, (list, tuple)):
        for value in item:
            yield from _pictures(value)


def _from_tensor(values: Tensor) -> Image.Image:
    values = values.detach().to("cpu", torch.float32)
    low, high = values.min(), values.max()
    stretched = ((values - low) / (high - low).clamp(min=1e-12) * 255).byte().expand(3, -1, -1)
    return Image.fromarray(np.ascontiguousarray(stretched.permute(1, 2, 0).numpy()))
