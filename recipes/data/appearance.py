"""What a picture looks like, in words that its pixels bear out: captions about the instance, beside its class.

Four measures of the figure, which is every pixel brighter than `BACKGROUND` of 255. The bounds are terciles over the
60,000 training images of Fashion-MNIST, rounded; the middle third goes without a word:

| measure | | lower third | upper third |
|---|---|---|---|
| extent | part of the picture's pixels that belong to the figure | small: below 0.37 | large: from 0.55 |
| brightness | mean of the figure's pixels | dark: below 140 | bright: from 180 |
| shape | width over height of the box around the figure | narrow: below 0.7 | wide: from 1.1 |
| contrast | third quartile less first quartile of the figure's pixels | little: below 32 | strong: from 60 |

Quartiles, since the blurred rim of a plain figure has a say in the standard deviation.
"""

from __future__ import annotations

import numpy as np

BACKGROUND = 16
# (lower bound, upper bound, word below the lower, word from the upper on)
Scale = tuple[float, float, str, str]
EXTENT: Scale = (0.37, 0.55, "small", "large")
BRIGHTNESS: Scale = (140, 180, "dark", "bright")
SHAPE: Scale = (0.7, 1.1, "narrow", "wide")
CONTRAST: Scale = (32, 60, "with little contrast", "with strong contrast")


def describe(image: np.ndarray, name: str) -> str:
    """For example "a small dark narrow dress with strong contrast"; where nothing stands out, "a dress".

    Args:
        image: Grey on black. uint8 [height, width].
        name: What is shown.
    """
    figure = image > BACKGROUND
    if not figure.any():
        return with_article(name)
    pixels = image[figure].astype(float)
    low, high = np.quantile(pixels, [0.25, 0.75])
    before = [word(figure.mean(), EXTENT), word(pixels.mean(), BRIGHTNESS), word(width_by_height(figure), SHAPE)]
    return with_article(" ".join(filter(None, [*before, name, word(high - low, CONTRAST)])))


def word(value: float, scale: Scale) -> str:
    lower, upper, low, high = scale
    return low if value < lower else high if value >= upper else ""


def width_by_height(figure: np.ndarray) -> float:
    """Of the box around what is set. bool [height, width]."""
    height, width = (np.ptp(np.flatnonzero(figure.any(axis=axis))) + 1 for axis in (1, 0))
    return float(width / height)


def with_article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
