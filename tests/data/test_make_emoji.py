"""The emoji dataset, from a miniature of the two packages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, load_dataset
from every_case import every_case
from PIL import Image

RECIPES = Path(__file__).parents[2] / "recipes"
VENDORS = ("google", "twitter")
TONES = ("1F3FB", "1F3FF")
FOOD, PEOPLE = "Food & Drink", "People & Body"


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES / "data"))


def emoji(unified: str, category: str, name: str, tones: bool = False, **changes: Any) -> dict[str, Any]:
    def entry(code: str) -> dict[str, Any]:
        return {"unified": code, "image": f"{code.lower()}.png"} | {f"has_img_{vendor}": True for vendor in VENDORS}

    point, *rest = unified.split("-")
    skins = {tone: entry("-".join([point, tone, *rest])) for tone in TONES} if tones else {}
    return {**entry(unified), "category": category, "name": name, "skin_variations": skins, **changes}


# Ten runners' families, each of a person, a woman and a man in three tones; ten dishes; what belongs to no class.
EMOJIS = [
    *(
        emoji(f"1F6{number:02X}{gender}", PEOPLE, f"{who} {number}", tones=True)
        for number in range(10)
        for gender, who in (("", "RUNNER"), ("-200D-2640-FE0F", "WOMAN"), ("-200D-2642-FE0F", "MAN"))
    ),
    *(emoji(f"1F3{number:02X}", FOOD, f"DISH {number}") for number in range(10)),
    emoji("1F3FB", "Component", "SKIN TONE"),
]


def color(code: str, vendor: str) -> tuple[int, ...]:
    """Every picture has its own, not white."""
    seed = [*code.encode(), *vendor.encode()]
    return *(int(value) for value in np.random.default_rng(seed).integers(0, 200, 3)), 255


def package_of(folder: Path, vendor: str, emojis: list[dict[str, Any]], same: tuple[str, ...] = ()) -> Path:
    """An unpacked package: a disk in the middle of each transparent image, equal for the emojis in `same`."""
    images = folder / vendor / "package" / "img" / vendor / "64"
    images.mkdir(parents=True)
    (folder / vendor / "package" / "emoji.json").write_text(json.dumps(emojis))
    for one in emojis:
        for variant in (one, *one["skin_variations"].values()):
            code = same[0] if variant["unified"] in same else variant["unified"]
            picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
            picture.paste(color(code, vendor), (16, 16, 48, 48))
            picture.save(images / variant["image"])
    return folder / vendor / "package"


@pytest.fixture
def data(tmp_path: Path) -> DatasetDict:
    from make_emoji import write

    write([package_of(tmp_path, vendor, EMOJIS) for vendor in VENDORS], tmp_path / "data")
    return load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))


def families(split: Dataset) -> set[tuple[int, str]]:
    """By class and the number at the name's end, which a family has in common."""
    return {(label, name.split()[-1]) for label, name in zip(split["label"], split["caption"], strict=True)}


def test_columns_classes_and_pictures(data: DatasetDict) -> None:
    train = data["train"]
    assert train.column_names == ["image", "label", "caption", "vendor"]
    assert train.features["label"].names == [FOOD, PEOPLE]
    codes = [variant["unified"] for one in EMOJIS for variant in (one, *one["skin_variations"].values())]
    colors = {color(code, vendor)[:3] for code in codes for vendor in VENDORS}
    for sample in train.select(range(20)):
        pixels = np.asarray(sample["image"])
        assert sample["image"].mode == "RGB" and pixels.shape == (64, 64, 3)
        assert (pixels[0, 0] == 255).all() and tuple(pixels[32, 32]) in colors
        assert sample["caption"] == sample["caption"].lower() and sample["vendor"] in VENDORS


def test_a_fifth_of_each_categorys_emojis_on_either_side_and_none_on_two(data: DatasetDict) -> None:
    found = {name: families(split) for name, split in data.items()}
    sizes = {name: Counter(label for label, _ in members) for name, members in found.items()}
    assert sizes == {"train": {0: 6, 1: 6}, "validation": {0: 2, 1: 2}, "test": {0: 2, 1: 2}}
    assert len(set.union(*found.values())) == 20
    # Of a family that is in the pool, every gender, tone and vendor is.
    assert Counter(data["train"]["label"]) == {0: 6 * 2, 1: 6 * 2 * 3 * 3}
    assert Counter(data["train"]["vendor"]) == {"google": 6 + 54, "twitter": 6 + 54}


def test_held_out_classes_are_capped_and_the_pool_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import make_emoji

    monkeypatch.setattr(make_emoji, "CAP", 5)
    pictures = list(make_emoji.read(package_of(tmp_path, "google", EMOJIS)))
    rows = make_emoji.split(pictures)
    sizes = {name: Counter(pictures[row].category for row in found) for name, found in rows.items()}
    assert sizes["test"] == sizes["validation"] == {FOOD: 2, PEOPLE: 5}
    assert sizes["train"] == {FOOD: 6, PEOPLE: 54}


def test_the_pool_has_a_part_of_a_rare_vendor_and_the_others_are_whole(tmp_path: Path) -> None:
    from make_emoji import part_of_vendor, read, split, with_rare_vendors

    packages = [package_of(tmp_path, vendor, EMOJIS) for vendor in VENDORS]
    pictures = [picture for package in packages for picture in read(package)]
    pool = split(pictures)["train"]
    kept = with_rare_vendors(pictures, pool, dict([part_of_vendor("twitter=0.1")]))
    assert Counter(pictures[row].vendor for row in kept) == {"google": 60, "twitter": 6}
    assert np.isin(kept, pool).all() and len(np.unique(kept)) == len(kept)
    assert np.array_equal(with_rare_vendors(pictures, pool, {}), pool)
    with pytest.raises(ValueError, match=r"--rare apple=0.1: give a vendor of \['google', 'twitter'\]"):
        with_rare_vendors(pictures, pool, {"apple": 0.1})


def test_the_split_is_the_same_every_time(tmp_path: Path) -> None:
    from make_emoji import read, split

    pictures = list(read(package_of(tmp_path, "google", EMOJIS)))
    for once, again in zip(split(pictures).values(), split(pictures).values(), strict=True):
        assert np.array_equal(once, again)


@every_case(
    ("one", "other", "alike"),
    [
        ("1F3C3-200D-2640-FE0F", "1F3C3-1F3FB-200D-2642-FE0F-200D-27A1-FE0F", True),
        ("1F468-200D-1F4BB", "1F469-1F3FF-200D-1F4BB", True),
        ("1F468-200D-1F4BB", "1F468-200D-1F692", False),
        ("1F55B", "1F566", True),
        # Signs of their own.
        ("2640-FE0F", "2642-FE0F", False),
        ("27A1-FE0F", "2640-FE0F", False),
    ],
)
def test_variations_by_code_points(one: str, other: str, alike: bool) -> None:
    from make_emoji import plain

    assert (plain(one) == plain(other)) == alike


def test_emojis_with_the_same_picture_are_one_family(tmp_path: Path) -> None:
    from make_emoji import families, read

    emojis = [emoji(f"1F1{number:02X}", "Flags", f"FLAG {number}") for number in range(4)]
    packages = [package_of(tmp_path, "google", emojis, same=("1F100", "1F101"))]
    packages += [package_of(tmp_path, "twitter", emojis, same=("1F101", "1F102"))]
    found = families([picture for package in packages for picture in read(package)]).reshape(2, 4)
    # By the other vendor's pictures too, and over a third emoji.
    assert (found[:, :3] == found[0, 0]).all() and (found[:, 3] != found[0, 0]).all()


def test_what_a_vendor_lacks_is_left_out(tmp_path: Path) -> None:
    from make_emoji import read

    emojis = [emoji("1F300", FOOD, "RICE"), emoji("1F301", FOOD, "BREAD", has_img_google=False)]
    assert [picture.name for picture in read(package_of(tmp_path, "google", emojis))] == ["rice"]
