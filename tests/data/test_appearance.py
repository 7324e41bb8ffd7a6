"""Captions by pixels, on images whose description is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from every_case import every_case

RECIPES = Path(__file__).parents[2] / "recipes"
SIZE = 28


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES / "data"))


def box(height: int, width: int, *values: int) -> np.ndarray:
    """A box on black, its columns of these values in turn."""
    image = np.zeros((SIZE, SIZE), np.uint8)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    image[top : top + height, left : left + width] = np.resize(values, width)
    return image


@every_case(
    ("image", "caption"),
    [
        (box(22, 22, 100), "a large dark bag with little contrast"),
        (box(22, 22, 220), "a large bright bag with little contrast"),
        (box(22, 22, 160), "a large bag with little contrast"),
        (box(22, 22, 40, 240), "a large bag with strong contrast"),
        (box(22, 22, 140, 180), "a large bag"),
        (box(18, 18, 140, 180), "a bag"),
        (box(10, 10, 140, 180), "a small bag"),
        (box(26, 14, 140, 180), "a narrow bag"),
        (box(14, 26, 140, 180), "a wide bag"),
        (box(24, 4, 50, 110), "a small dark narrow bag with strong contrast"),
        (box(4, 24, 220), "a small bright wide bag with little contrast"),
        # Nothing but background: nothing can be said.
        (box(20, 20, 16), "a bag"),
    ],
)
def test_a_caption_says_what_the_pixels_are(image: np.ndarray, caption: str) -> None:
    from appearance import describe

    assert describe(image, "bag") == caption


def test_where_a_figure_stands_and_what_noise_is_around_it_changes_nothing() -> None:
    from appearance import describe

    image = box(20, 8, 90)
    noisy = np.where(image, image, np.random.default_rng(0).integers(0, 17, image.shape).astype(np.uint8))
    assert describe(np.roll(noisy, 3, axis=1), "dress") == describe(image, "dress")


def test_the_article_goes_with_the_word_behind_it() -> None:
    from appearance import describe

    assert describe(box(18, 18, 140, 180), "ankle boot") == "an ankle boot"
    assert describe(box(22, 22, 140, 180), "ankle boot") == "a large ankle boot"


def test_the_embedded_images_have_their_captions() -> None:
    from appearance import describe
    from make_fashion_mnist import CLASSES

    rows: dict[str, Any] = datasets.Dataset.from_parquet(str(RECIPES / "data/fashion_mnist/test.parquet"))[:100]
    for image, label, caption in zip(rows["image"], rows["label"], rows["caption"], strict=True):
        assert caption == describe(np.asarray(image), CLASSES[label])
    assert len(set(rows["caption"])) > 40
