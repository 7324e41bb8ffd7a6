"""Corruptions: fixed by the seed, stronger with the severity, of the image's own size, and made once."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageColumn
from every_case import every_case
from PIL import Image
from pools.corruptions import CORRUPTIONS, corrupt, corrupted
from sklearn.datasets import load_sample_image

# Saturation goes down and then up, and of grey there is none.
NOT_MONOTONE = {"saturate"}


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(float)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg"))


@pytest.fixture(scope="module")
def pictures(fashion: Dataset, photograph: Image.Image) -> list[Image.Image]:
    """Grey ones of 28 px, a small one in colour, and one that is not square."""
    return [*fashion[:4]["image"], photograph.crop((0, 0, 400, 400)).resize((64, 64)), photograph.resize((56, 40))]


def test_the_names_are_the_packages_own() -> None:
    from imagecorruptions import get_corruption_names

    assert sorted(CORRUPTIONS) == sorted(get_corruption_names("all"))


@every_case("name", CORRUPTIONS)
def test_a_seed_fixes_an_image_whose_size_and_mode_stay(name: str, pictures: list[Image.Image]) -> None:
    for picture in pictures:
        before = pixels(picture)
        np.random.seed(1)
        made = corrupt(picture, name, 3, seed=7)
        np.random.seed(2)
        state = np.random.get_state()[1].copy()
        assert np.array_equal(made, corrupt(picture, name, 3, seed=7))
        assert np.array_equal(np.random.get_state()[1], state), "the global generator has moved"
        assert made.size == picture.size and made.mode == picture.mode
        assert np.array_equal(pixels(picture), before), "the given image was written to"


DRAWN = sorted({*CORRUPTIONS} - {"defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "saturate"})


@every_case("name", [name for name in DRAWN if name not in ("pixelate", "jpeg_compression")])
def test_another_seed_is_another_image(name: str, pictures: list[Image.Image]) -> None:
    for picture in pictures:
        one, other = (corrupt(picture, name, 5, seed) for seed in (0, 1))
        assert not np.array_equal(one, other)


@every_case("name", [name for name in CORRUPTIONS if name not in NOT_MONOTONE])
def test_severities_lead_away_from_the_image(name: str, pictures: list[Image.Image]) -> None:
    """By the mean over images and seeds; ImageNet-C's own steps are not each larger for every image."""

    def distance(severity: int) -> float:
        made = [(one, corrupt(one, name, severity, seed)) for one in pictures for seed in range(3)]
        return float(np.mean([np.abs(pixels(one) - pixels(other)).mean() for one, other in made]))

    mild, middle, strong = (distance(severity) for severity in (1, 3, 5))
    assert 0.5 < mild < middle < strong


@every_case("size", [(28, 28), (64, 64), (224, 224)])
def test_snow_is_bright_flakes_and_fog_takes_contrast(size: tuple[int, int]) -> None:
    dark = Image.new("L", size, 30)
    snow = pixels(corrupt(dark, "snow", 3, seed=0))
    # Flakes stand out of what is between them, and cover a part of the image.
    between = np.median(snow)
    assert 0.05 < (snow > between + 60).mean() < 0.5
    # Their edges are as sharp as an image of that size can have them: neighbours differ where a flake ends.
    assert np.abs(np.diff(snow, axis=1)).max() > 60
    half = Image.new("L", size, 0)
    half.paste(255, (0, 0, size[0] // 2, size[1]))
    fog = pixels(corrupt(half, "fog", 3, seed=0))
    light, shade = fog[:, : size[0] // 2], fog[:, size[0] // 2 :]
    assert light.mean() - shade.mean() < 0.6 * 255 and shade.mean() > 40
    # It has no edges.
    assert np.abs(np.diff(shade[:, 2:], axis=1)).max() < 40


@every_case("mode", ["1", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_become_rgb(mode: str, photograph: Image.Image) -> None:
    small = photograph.resize((32, 24)).convert(mode)
    made = corrupt(small, "frost", 2, seed=0)
    assert (made.mode, made.size) == ("RGB", (32, 24))


def test_a_large_image_is_as_the_package_has_it(photograph: Image.Image) -> None:
    from imagecorruptions import corrupt as of_package

    from vecaf_hf.seeding import seeded

    large = photograph.resize((200, 150))
    for name in ("snow", "fog", "frost", "shot_noise"):
        with seeded(5):
            expected = of_package(np.asarray(large), 4, name)
        assert np.array_equal(corrupt(large, name, 4, seed=5), expected)


@pytest.mark.parametrize(
    ("name", "severity", "says"),
    [
        ("snoww", 3, "corruption is 'snoww' .did you mean 'snow'"),
        ("snow", 0, "severity is 0; it must be at least 1"),
        ("snow", 6, "severity is 6; it must be 1 to 5"),
        ("snow", 2.5, "severity is 2.5; it must be a whole number"),
    ],
)
def test_what_is_no_corruption_is_told(name: str, severity: Any, says: str, fashion: Dataset) -> None:
    with pytest.raises(ValueError, match=says):
        corrupt(fashion[0]["image"], name, severity, seed=0)
    with pytest.raises(ValueError, match=says):
        corrupted(fashion, "image", name, severity)


def test_without_the_package_its_extra_is_named(fashion: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "imagecorruptions":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"vecaf_hf\[corruptions\].*libGL.*opencv-python-headless"):
        corrupt(fashion[0]["image"], "snow", 3, seed=0)


def test_a_dataset_keeps_all_but_its_images(fashion: Dataset) -> None:
    # A transform of the images is not applied before.
    made = corrupted(fashion.with_transform(lambda batch: {"label": batch["label"]}), "image", "snow", 3, seed=1)
    assert made.features == fashion.features and made["label"] == fashion["label"] and len(made) == len(fashion)
    images = [np.asarray(one) for one in made["image"]]
    assert all(one.shape == (28, 28) for one in images)
    # Each sample has flakes of its own.
    black = [
        one[:3].tobytes() for one, before in zip(images, fashion["image"], strict=True) if not pixels(before)[:3].any()
    ]
    assert len(black) > 20 and len(set(black)) == len(black)
    again = corrupted(fashion.select(range(5)), "image", "snow", 3, seed=1)
    assert all(np.array_equal(one, other) for one, other in zip(again["image"], images[:5], strict=True))
    other = corrupted(fashion.select(range(5)), "image", "snow", 3, seed=2)
    assert not any(np.array_equal(one, two) for one, two in zip(other["image"], images[:5], strict=True))


def test_it_is_made_once(fashion: Dataset, tmp_path: Path) -> None:
    fashion.select(range(10)).to_parquet(tmp_path / "few.parquet")

    def files(severity: int) -> list[tuple[str, int]]:
        stored = Dataset.from_parquet(str(tmp_path / "few.parquet"), cache_dir=str(tmp_path / "cache"))
        made = corrupted(stored, "image", "fog", severity)
        return [(one["filename"], Path(one["filename"]).stat().st_mtime_ns) for one in made.cache_files]

    first = files(3)
    assert len(first) == 1 and files(3) == first
    assert files(4) != first


def test_a_column_that_is_not_there(fashion: Dataset) -> None:
    with pytest.raises(ValueError, match=r"column 'img' .* is not there .columns: image, label.*: name the column"):
        corrupted(fashion, "img", "snow", 3)


def test_it_is_made_anew_with_another_working_size_or_package(
    fashion: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fashion.select(range(3)).to_parquet(tmp_path / "few.parquet")

    def key() -> str:
        stored = Dataset.from_parquet(str(tmp_path / "few.parquet"), cache_dir=str(tmp_path / "cache"))
        return Path(corrupted(stored, "image", "fog", 3).cache_files[0]["filename"]).name

    first = key()
    assert key() == first
    with monkeypatch.context() as patch:
        patch.setattr("pools.corruptions.WORKING_SIZE", 56)
        smaller = key()
    monkeypatch.setattr("pools.corruptions.version", lambda package: "0")
    assert len({first, smaller, key()}) == 3


def test_some_samples_are_drawn_by_their_place_among_these(fashion: Dataset) -> None:
    made = corrupted(fashion, "image", "snow", 3, seed=1, rows=[5, 2])
    expected = corrupted(fashion.select([5, 2]), "image", "snow", 3, seed=1)
    assert made["label"] == expected["label"]
    assert all(np.array_equal(one, other) for one, other in zip(made["image"], expected["image"], strict=True))


@pytest.mark.parametrize(("bad", "says"), [(b"no image", "cannot be read"), (None, "is missing")])
def test_an_image_that_cannot_be_read_is_named(fashion: Dataset, bad: bytes | None, says: str) -> None:
    images = fashion.select(range(3)).with_format("arrow")["image"].to_pylist()
    stored = [*images, None if bad is None else {"bytes": bad, "path": None}]
    dataset = Dataset.from_dict({"image": stored}, features=Features(image=ImageColumn()))
    for rows in (None, [3, 0]):
        with pytest.raises(ValueError, match=rf"the image of sample 3 .column 'image'. {says}.*: mend it"):
            corrupted(dataset, "image", "snow", 3, rows=rows)
