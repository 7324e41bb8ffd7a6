"""Pools derived from a dataset: what each promises, and that a seed fixes it."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from every_case import every_case
from PIL import Image as Pillow
from pools.making import IMBALANCE, POOLS, make_pool, varied

CLASSES, PER_CLASS = 4, 200


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Every image has its own number in its pixels."""
    features = Features({"image": Image(), "label": ClassLabel(num_classes=CLASSES), "caption": Value("string")})
    images = []
    for number in range(CLASSES * PER_CLASS):
        pixels = np.full((12, 12), 40, np.uint8)
        pixels[3:9, 3:9] = 100
        pixels[5, 5], pixels[6, 6] = number % 100, number // 100
        images.append(Pillow.fromarray(pixels))
    labels = [number % CLASSES for number in range(CLASSES * PER_CLASS)]
    captions = [f"a thing of class {label}" for label in labels]
    return Dataset.from_dict({"image": images, "label": labels, "caption": captions}, features=features)


def pool_of(dataset: Dataset, name: str, seed: int = 0) -> Dataset:
    return make_pool(dataset, name, "label", "image", seed)


def numbers(pool: Dataset) -> np.ndarray:
    """Which of the dataset's images these are; those that were changed have another."""
    pixels = np.stack([np.asarray(picture) for picture in pool["image"]]).astype(int)
    return pixels[:, 5, 5] + 100 * pixels[:, 6, 6]


def test_clean_is_the_dataset(dataset):
    assert pool_of(dataset, "clean") is dataset


def test_long_tailed_falls_exponentially_to_a_hundredth(dataset):
    pool = pool_of(dataset, "long_tailed")
    sizes = np.bincount(pool["label"])
    assert sizes.tolist() == [round(PER_CLASS * IMBALANCE ** (-i / (CLASSES - 1))) for i in range(CLASSES)]
    chosen = numbers(pool)
    assert len(set(chosen)) == len(pool)
    assert all(number % CLASSES == label for number, label in zip(chosen, pool["label"], strict=True))


def test_noisy_replaces_a_fifth_of_the_labels_by_other_classes_and_nothing_else(dataset):
    pool = pool_of(dataset, "noisy")
    labels, before = np.array(pool["label"]), np.array(dataset["label"])
    assert (labels != before).mean() == 0.2
    assert pool.features == dataset.features
    assert np.array_equal(numbers(pool), np.arange(len(dataset)))
    # Every other class is as likely: a third of the wrong labels each, within four standard deviations.
    shifts = np.bincount((labels - before)[labels != before] % CLASSES, minlength=CLASSES)[1:]
    wrong = shifts.sum()
    assert np.abs(shifts - wrong / 3).max() < 4 * np.sqrt(wrong * 2 / 9)


def test_redundant_repeats_a_twentieth_of_the_images_in_nine_tenths_of_the_pool(dataset):
    pool = pool_of(dataset, "redundant")
    assert len(pool) == len(dataset) and pool.features == dataset.features
    originals = [np.asarray(picture).tobytes() for picture in dataset["image"]]
    found = [np.asarray(picture).tobytes() for picture in pool["image"]]
    untouched = [originals.index(one) for one in found if one in originals]
    assert len(untouched) == len(set(untouched)) == len(dataset) // 10
    # Each copy is an image of its own, near its source, with its source's label.
    varied = [row for row, one in enumerate(found) if one not in originals]
    assert len({found[row] for row in varied}) > 0.95 * len(varied)
    assert np.array_equal(np.bincount(pool["label"]) > 0, np.full(CLASSES, True))
    pixels = np.stack([np.asarray(pool[row]["image"]) for row in varied[:50]]).astype(float)
    assert 60 < pixels[:, 4:8, 4:8].mean() < 125 and pixels[:, 0, 0].mean() < 50


@pytest.mark.parametrize("name", POOLS)
def test_a_seed_fixes_the_pool(dataset, name):
    def content(seed: int) -> list:
        pool = pool_of(dataset, name, seed)
        return [*zip(pool["label"], (np.asarray(picture).tobytes() for picture in pool["image"]), strict=True)]

    assert content(0) == content(0)
    assert (content(0) == content(1)) == (name == "clean")


@every_case("mode", ["1", "P", "L", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_copy_of_any_kind_of_image_has_no_wedges_of_another_colour(mode):
    white = np.full((24, 24), 255, np.uint16 if mode == "I;16" else np.uint8)
    picture = Pillow.fromarray(white)
    picture = picture if mode == "I;16" else picture.convert(mode)
    copy = varied(picture, seed=3)
    assert copy.mode == ("L" if mode == "L" else "RGB") and copy.size == picture.size
    # One colour before, one colour, perhaps darker, after.
    assert len(np.unique(np.asarray(copy))) == 1
