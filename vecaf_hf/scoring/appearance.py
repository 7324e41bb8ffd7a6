"""How an image looks, whatever it shows: brightness, contrast, sharpness and direction of its texture, rough layout.

A model is trained to see the same in a picture whatever the weather or the camera: what enters its head tells little
of them. A few numbers of the pixels tell much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from vecaf_hf.scoring.resolution import find_images

# Sizes at which texture is looked at, each half the one before, and the smallest side that is halved.
SCALES, SMALLEST_HALVED = 3, 4
# Images of this shorter side or more are halved before: a pass through a small network is to cost little more.
LARGE = 128
# Added to differences of neighbouring pixels, whose logarithm is taken: in standard deviations of normalised pixels.
FLAT = 0.1
# Rows and columns of the layout.
CELLS = 4


def appearance_in(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:
    """The appearance of a batch's images, [n, s]; None where there are none of at least 2 x 2 pixels."""
    try:
        _, images = find_images(model, inputs, "", "")
    except ValueError:
        return None
    return appearance(images.float()) if min(images.shape[2:]) > 1 else None


def appearance(images: Tensor) -> Tensor:
    """A few numbers of each image alone, finite whatever it holds. [n, c, h, w] -> [n, 40 + 2 c]."""
    grey = images.mean(dim=1)
    while min(grey.shape[1:]) >= LARGE:
        grey = _halved(grey)
    layout = adaptive_avg_pool2d(grey[:, None], CELLS).flatten(1)
    parts = [*_mean_and_deviation(images), layout, *_textures(grey)]
    return torch.cat(parts, dim=1).nan_to_num(0.0, 0.0, 0.0)


def _textures(grey: Tensor) -> list[Tensor]:
    """By size and direction, how much neighbouring pixels differ. [n, h, w] -> [n, 4 directions] each."""
    found = []
    for _ in range(SCALES):
        here, right, below, across = grey[:, :-1, :-1], grey[:, :-1, 1:], grey[:, 1:, :-1], grey[:, 1:, 1:]
        # The logarithm, since a faint noise all over an image is as much of its look as a few sharp edges.
        steps = here - right, here - below, here - across, right - below
        each = [_mean_and_deviation(step.abs_().add_(FLAT).log_()[:, None]) for step in steps]
        found += [torch.cat(numbers, dim=1) for numbers in zip(*each, strict=True)]
        if min(grey.shape[1:]) >= SMALLEST_HALVED:
            grey = _halved(grey)
    return found


def _halved(grey: Tensor) -> Tensor:
    return avg_pool2d(grey[:, None], 2)[:, 0]


def _mean_and_deviation(maps: Tensor) -> list[Tensor]:
    """Over positions. [n, k, h, w] -> [n, k] both."""
    maps = maps.flatten(2)
    mean = maps.mean(dim=2)
    # On a CPU a third of the time of torch.std_mean.
    deviation = torch.linalg.vector_norm(maps - mean[:, :, None], dim=2) / maps.shape[2] ** 0.5
    return [mean, deviation]
