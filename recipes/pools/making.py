"""Pools that are not clean and balanced, derived from any image dataset by a seed: where a selection earns its keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageEnhance

from pools.domains import domains
from pools.hidden import hidden
from vecaf_hf.data.columns import read_column
from vecaf_hf.data.rgb import to_rgb

# Most over fewest samples of a class.
IMBALANCE = 100
# Part of the labels that is replaced.
NOISE = 0.2
# Part of the pool that repeats, and part of the images that it repeats.
REPEATED, REPEATED_IMAGES = 0.9, 0.05

# (dataset, label column, image column, generator), and the pool's own options.
MakePool = Callable[..., datasets.Dataset]


def clean(dataset: datasets.Dataset, label: str, image: str, generator: np.random.Generator) -> datasets.Dataset:
    """The dataset as it is."""
    return dataset


def long_tailed(dataset: datasets.Dataset, label: str, image: str, generator: np.random.Generator) -> datasets.Dataset:
    """Class sizes that fall exponentially with the class, the first a hundred times the last."""
    labels = np.array(read_column(dataset, label))
    classes, sizes = np.unique(labels, return_counts=True)
    shares = IMBALANCE ** (-np.arange(len(classes)) / max(1, len(classes) - 1))
    kept = [
        generator.permutation(np.flatnonzero(labels == one))[: max(1, round(sizes.max() * share))]
        for one, share in zip(classes, shares, strict=True)
    ]
    return dataset.select(np.sort(np.concatenate(kept)))


def noisy(dataset: datasets.Dataset, label: str, image: str, generator: np.random.Generator) -> datasets.Dataset:
    """A fifth of the labels replaced by another class, each other one as likely."""
    labels = np.array(read_column(dataset, label))
    classes = np.unique(labels)
    wrong = generator.permutation(len(labels))[: round(NOISE * len(labels))]
    shift = generator.integers(1, len(classes), len(wrong)) if len(classes) > 1 else 0
    labels[wrong] = classes[(np.searchsorted(classes, labels[wrong]) + shift) % len(classes)]
    return dataset.remove_columns(label).add_column(label, labels.tolist(), feature=dataset.features[label])


def redundant(dataset: datasets.Dataset, label: str, image: str, generator: np.random.Generator) -> datasets.Dataset:
    """Nine tenths of the pool are light augmentations of a twentieth of the images; the size stays."""
    size = len(dataset)
    order = generator.permutation(size)
    sources = order[: max(1, round(REPEATED_IMAGES * size))]
    copies = round(REPEATED * size)
    rows = np.concatenate([order[len(sources) :][: size - copies], np.resize(sources, copies)])
    seeds = np.where(np.arange(len(rows)) < size - copies, -1, generator.integers(2**31, size=len(rows)))
    shuffled = generator.permutation(len(rows))
    chosen = dataset.select(rows[shuffled])
    return chosen.map(
        lambda sample, place: {image: varied(sample[image], int(seeds[shuffled[place]]))},
        with_indices=True,
        features=dataset.features,
        desc="Repeating images",
    )


def varied(picture: Image.Image, seed: int) -> Image.Image:
    """The image slightly moved, turned and brightened or darkened; as it is for a seed below 0.

    A copy is in RGB unless it is grey. What comes in at its edges has the colour of its first corner: black wedges
    would tell copies from other images.
    """
    if seed < 0:
        return picture
    if picture.mode != "L":
        picture = to_rgb(picture)
    generator = np.random.default_rng(seed)
    shift = tuple(generator.uniform(-0.06, 0.06, 2) * picture.size)
    angle, corner = generator.uniform(-8, 8), picture.getpixel((0, 0))
    turned = picture.rotate(angle, Image.Resampling.BILINEAR, translate=shift, fillcolor=corner)
    return ImageEnhance.Brightness(turned).enhance(generator.uniform(0.85, 1.15))


POOLS: dict[str, MakePool] = {
    "clean": clean,
    "long_tailed": long_tailed,
    "noisy": noisy,
    "redundant": redundant,
    "domains": domains,
    "hidden": hidden,
}


def make_pool(
    dataset: datasets.Dataset, name: str, label: str, image: str, seed: int, **options: Any
) -> datasets.Dataset:
    """One of POOLS by name, made of a training split.

    Args:
        dataset: With a ClassLabel column of labels and a column of images.
        name: `clean`, `long_tailed`, `noisy`, `redundant`, `domains` or `hidden`.
        label: Column of labels.
        image: Column of images.
        seed: Draws the samples, labels and augmentations.
        **options: Of that pool.
    """
    return POOLS[name](dataset, label, image, np.random.default_rng(seed), **options)
