"""Conditions: what each does to an image, and that it is made once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageColumn
from every_case import every_case
from PIL import Image
from pools import conditions
from pools.conditions import check_can_be_made, check_condition, under_condition
from pools.corruptions import corrupt

from vecaf_hf.seeding import seed_of


def test_inverted_is_the_negative_and_rotated_a_quarter_turn(fashion: Dataset) -> None:
    few = fashion.select(range(3))
    negative, turned = (under_condition(few, "image", name, 3) for name in ("inverted", "rotated"))
    for row in range(3):
        before = np.asarray(few[row]["image"])
        assert np.array_equal(negative[row]["image"], 255 - before)
        assert np.array_equal(turned[row]["image"], np.rot90(before)) and not np.array_equal(np.rot90(before), before)
        assert negative[row]["image"].mode == turned[row]["image"].mode == "L"
        assert negative[row]["label"] == turned[row]["label"] == few[row]["label"]


@every_case("mode", ["1", "P", "LA", "RGBA", "CMYK"])
def test_what_is_not_grey_becomes_rgb(mode: str) -> None:
    picture = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
    dataset = Dataset.from_dict({"image": [picture]}, features=Features({"image": ImageColumn()}))
    (made,) = under_condition(dataset, "image", "inverted", 1)["image"]
    assert made.mode == "RGB" and np.asarray(made).max() == 0
    (made,) = under_condition(dataset, "image", "rotated", 1)["image"]
    assert made.mode == "RGB" and made.size == (4, 6)


def test_a_corruption_is_that_of_its_seed(fashion: Dataset) -> None:
    made = under_condition(fashion, "image", "fog", 2, seed=5, rows=[4, 9])
    for place, row in enumerate((4, 9)):
        assert np.array_equal(made[place]["image"], corrupt(fashion[row]["image"], "fog", 2, seed_of(5, place)))


def test_a_condition_is_made_once(fashion: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fashion.select(range(5)).to_parquet(tmp_path / "few.parquet")

    def made() -> list[bytes]:
        read = Dataset.from_parquet(str(tmp_path / "few.parquet"), cache_dir=str(tmp_path / "cache"))
        found = under_condition(read, "image", "rotated", 3, rows=[1, 3])
        return [np.asarray(one).tobytes() for one in found["image"]]

    first = made()
    monkeypatch.setitem(conditions.PLAIN, "rotated", lambda _: pytest.fail("made again"))
    assert made() == first


def test_a_condition_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"condition is 'invertd' .did you mean 'inverted'"):
        check_condition("invertd", 3)
    with pytest.raises(ValueError, match="severity is 6"):
        check_condition("snow", 6)
    check_condition("rotated", 6)
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    check_can_be_made("inverted")
    with pytest.raises(ImportError, match="corruptions need a package"):
        check_can_be_made("snow")
