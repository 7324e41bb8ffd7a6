"""ImageNet-C in its usual folders, with labels as the training set numbers them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from every_case import every_case
from PIL import Image as Pillow
from pools.imagenet_c import class_numbers, load_imagenet_c
from timm.data import ImageNetInfo

# Tench, goldfish, great white shark, and the two cranes.
TENCH, GOLDFISH, SHARK, BIRD, MACHINE = "n01440764", "n01443537", "n01484850", "n02012849", "n03126707"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(root: Path, *places: str) -> str:
    """Two images in each place, all of its own grey."""
    for number, place in enumerate(places, 1):
        (root / place).mkdir(parents=True)
        for image in range(2):
            Pillow.new("RGB", (24, 24), (20 * number,) * 3).save(root / place / f"ILSVRC2012_val_{image}.JPEG")
    return str(root)


def found(name: str, corruption: str, severity: int, class_names: list[str]) -> list[tuple[int, int]]:
    """(label, grey) of each image."""
    data = load_imagenet_c(name, corruption, severity, class_names)
    assert data.column_names == ["image", "label"] and data.features["label"].names == class_names
    return sorted((one["label"], round(float(np.asarray(one["image"]).mean()))) for one in data)


def test_a_corruption_and_severity_by_wordnet_ids(tmp_path: Path) -> None:
    root = write(tmp_path / "c", f"snow/3/{TENCH}", f"snow/3/{SHARK}", f"snow/5/{TENCH}", f"fog/3/{TENCH}")
    assert found(root, "snow", 3, [SHARK, "n02012849", TENCH]) == [(0, 40), (0, 40), (2, 20), (2, 20)]
    assert found(root, "snow", 5, [TENCH]) == [(0, 60), (0, 60)]
    assert found(root, "fog", 3, [TENCH]) == [(0, 80), (0, 80)]


def test_folders_of_the_published_archives(tmp_path: Path) -> None:
    root = write(tmp_path / "c", f"weather/snow/1/{TENCH}", f"noise/shot_noise/1/{TENCH}")
    assert found(root, "snow", 1, [TENCH]) == [(0, 20), (0, 20)]
    assert found(root, "shot_noise", 1, [TENCH]) == [(0, 40), (0, 40)]


def test_classes_that_training_has_not_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write(tmp_path / "c", f"snow/3/{TENCH}", f"snow/3/{GOLDFISH}")
    assert found(root, "snow", 3, ["goldfish, Carassius auratus", "cat"]) == [(0, 40), (0, 40)]
    assert f"2 images of {root} have no class of the training set" in caplog.text


IDS = ImageNetInfo("imagenet-1k").label_names()
DESCRIPTIONS = [ImageNetInfo("imagenet-1k").index_to_description(number) for number in range(1000)]
# Its two cranes have names of their own on the Hub, as a ClassLabel's classes must.
ON_THE_HUB = ["crane2" if name == MACHINE else said for name, said in zip(IDS, DESCRIPTIONS, strict=True)]


@every_case(
    "class_names", [IDS, ON_THE_HUB, [*map(str, range(1000))]], ids=["WordNet ids", "ImageNet's names", "numbers"]
)
@every_case("order", [list, sorted], ids=["in order", "sorted"])
def test_all_of_imagenet_is_known_by_its_names_in_any_order(class_names: list[str], order: Any) -> None:
    shown = order(class_names)
    assert class_numbers(IDS, shown) == [shown.index(name) for name in class_names]


def test_names_that_two_classes_share() -> None:
    assert DESCRIPTIONS[IDS.index(MACHINE)] == DESCRIPTIONS[IDS.index(BIRD)] == "crane"
    # Classes that were read from texts are one by the same name.
    assert (
        class_numbers([TENCH, MACHINE, BIRD], sorted({*DESCRIPTIONS}))[1:]
        == [sorted({*DESCRIPTIONS}).index("crane")] * 2
    )
    # On the Hub it is the bird alone, and a part of ImageNet may have that one and not the machine.
    assert class_numbers([MACHINE, BIRD], ["crane", "tench, Tinca tinca"]) == [None, 0]
    assert class_numbers(["bag", "no such class"], ["shirt", "bag"]) == [1, None]


@pytest.mark.parametrize(
    "class_names",
    [[f"bird{number}" for number in range(1000)], [*map(str, range(100))], [*map(str, range(1, 1001))]],
    ids=["other names", "numbers of some classes", "numbers from 1"],
)
def test_a_place_alone_names_no_class(class_names: list[str], tmp_path: Path) -> None:
    assert class_numbers([TENCH, SHARK], class_names) == [None, None]
    root = write(tmp_path / "c", f"snow/3/{TENCH}")
    says = r"none is among the training set's: .*; name these by WordNet id or as ImageNet does .'tench, Tinca tinca'."
    with pytest.raises(ValueError, match=says):
        load_imagenet_c(root, "snow", 3, class_names)


def test_on_the_hub_it_is_asked_for_by_folder_or_by_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that `datasets` is given; what it does with it is its own affair."""
    asked: list[dict[str, str]] = []
    features = Features({"image": Image(), "label": ClassLabel(names=[TENCH, SHARK])})
    rows = Dataset.from_dict({"image": [None, None], "label": [1, 0]}, features=features)

    def load_dataset(path: str, **place: str) -> DatasetDict:
        asked.append({"id": path, **place})
        return DatasetDict(splits)

    monkeypatch.setattr("pools.imagenet_c.load_dataset", load_dataset)
    splits = {"validation": rows}
    assert load_imagenet_c("someone/imagenet-c", "snow", 3, [SHARK])["label"] == [0]
    load_imagenet_c("someone/imagenet-c", "snow", 3, [SHARK], config="snow_3")
    assert asked == [
        {"id": "someone/imagenet-c", "data_dir": "snow/3"},
        {"id": "someone/imagenet-c", "name": "snow_3"},
    ]
    splits = {"one": rows, "other": rows}
    with pytest.raises(ValueError, match=r"someone/imagenet-c has the splits one, other where ImageNet-C has one"):
        load_imagenet_c("someone/imagenet-c", "snow", 3, [SHARK])
    splits = {"one": rows.cast_column("label", Value("int64"))}
    with pytest.raises(ValueError, match=r"has the columns image, label for snow 3; it must have 'image' and named"):
        load_imagenet_c("someone/imagenet-c", "snow", 3, [SHARK])


@pytest.mark.parametrize(
    ("corruption", "severity", "class_names", "says"),
    [
        ("fog", 3, [TENCH], r"has no folder fog/3, nor has one of those in it: is it the root of ImageNet-C"),
        ("snow", 4, [TENCH], r"has no folder snow/4"),
        ("snow", 9, [TENCH], r"severity is 9; it must be 1 to 5"),
        ("snow", 3, ["shirt", "bag"], rf"has the classes {TENCH}, and none is among the training set's: shirt, bag"),
    ],
)
def test_what_is_missing_is_told(
    corruption: str, severity: int, class_names: list[str], says: str, tmp_path: Path
) -> None:
    root = write(tmp_path / "c", f"snow/3/{TENCH}")
    with pytest.raises(ValueError, match=says):
        load_imagenet_c(root, corruption, severity, class_names)


def test_a_folder_that_is_not_there_is_not_asked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pools.imagenet_c.load_dataset", lambda *_, **__: pytest.fail("asked"))
    for name in (str(tmp_path / "none"), "./none"):
        with pytest.raises(ValueError, match=r"there is no folder .*none: unpack ImageNet-C there, or give a .*Hub id"):
            load_imagenet_c(name, "snow", 3, [TENCH])
