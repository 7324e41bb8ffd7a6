"""Images in RGB, deep greys (16 bits, 32 bits, floats) among them, which Pillow would clip at 255."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

# Pillow's `convert` clips these at 255 (13.0, libImaging/Convert.c): medical PNGs of 12 bits become white.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# Values in use, whatever they are stored in: sensors give 10, 12 or 14 of 16 bits.
BITS = (8, 10, 12, 14, 16)
# Part of an image's pixels that may be clipped without a word.
CLIPPED = 1e-3

ToRGB = Callable[[Image.Image], Image.Image]


@dataclass
class Greys:
    """Turns images into RGB of 8 bits, deep greys by one range for all of them.

    Args:
        black: The value of a deep grey that becomes black.
        white: The one that becomes white.
    """

    black: float
    white: float
    _is_told: bool = field(default=False, init=False, repr=False)

    @classmethod
    def of(cls, images: Iterable[Image.Image]) -> Greys | None:
        """By the values in these images: from 0, or the least of them, to the end of the smallest usual range that
        holds them (1 for floats; 8, 10, 12, 14 or 16 bits), or else the largest. None if there is no deep grey."""
        found = [(image.mode, _values(image)) for image in images if image.mode in DEEP_MODES]
        if not found:
            return None
        values = np.concatenate([pixels.ravel() for _, pixels in found])
        # Single pixels may be anything: a marker, a dead cell of the sensor.
        low = float(np.quantile(values, CLIPPED, method="lower"))
        high = float(np.quantile(values, 1 - CLIPPED, method="higher"))
        ends = ([1.0] if all(mode == "F" for mode, _ in found) else []) + [float(2**bits - 1) for bits in BITS]
        white = next((end for end in ends if high <= end), high)
        return cls(min(0.0, low), white)

    def __call__(self, image: Image.Image) -> Image.Image:
        if image.mode not in DEEP_MODES:
            return image.convert("RGB")
        values = _values(image)
        clipped = float(((values < self.black) | (values > self.white)).mean())
        if clipped > CLIPPED and not self._is_told:
            self._is_told = True
            logger.warning(
                "an image (%s) has %.1f%% of its pixels outside %g to %g, the range of the images that were looked at: "
                "they become black or white. Store all images in one range",
                image.mode,
                100 * clipped,
                self.black,
                self.white,
            )
        scaled = (values - self.black) * (255 / max(self.white - self.black, 1e-12))
        return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8)).convert("RGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """One image in RGB, a deep grey by the range of its own values."""
    greys = Greys.of([image])
    return image.convert("RGB") if greys is None else greys(image)


def _values(image: Image.Image) -> np.ndarray:
    largest = float(np.finfo(np.float32).max)
    return np.nan_to_num(np.asarray(image).astype(np.float64), posinf=largest, neginf=-largest)
