"""Targets of a run's model: the test split corrupted, or ImageNet-C, as the model takes them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from options import PoolArguments
from PIL import Image
from pools import corruptions
from pools.corruptions import corrupt
from targets import Target, conditions_of, evaluate_under_conditions, mean_and_worst, stratified
from torch import Tensor

from vecaf_hf.seeding import seed_of

PROCESSOR = SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)


def recipe(**options: Any) -> PoolArguments:
    return PoolArguments(**{"image_size": 28, "crop_scale": 1.0, **options})


def pixels(picture: Image.Image) -> Tensor:
    """[3, h, w] in [0, 1]."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255


def not_called(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    raise AssertionError("the test split's own transform")


def test_a_target_may_be_the_samples_of_a_split_that_a_column_tells(fashion: Dataset) -> None:
    few = fashion.select(range(6)).add_column("camera", ["new", "old", "new", "old", "old", "new"])
    old = Target("old", column="camera").of(few.with_transform(not_called), "image", "label", recipe(), PROCESSOR)
    assert [one["labels"] for one in old] == [few["label"][row] for row in (1, 3, 4)]
    assert torch.allclose(old[0]["pixel_values"], pixels(few[1]["image"]))
    by_class = Target(few.features["label"].int2str(few[2]["label"]), column="label")
    classes = by_class.of(few, "image", "label", recipe(), PROCESSOR)
    assert {one["labels"] for one in classes} == {few[2]["label"]}
    with pytest.raises(
        ValueError, match="no sample of the split has 'worn' in its column 'camera': it has 'new', 'old'"
    ):
        Target("worn", column="camera").of(few, "image", "label", recipe(), PROCESSOR)
    with pytest.raises(ValueError, match="leave one of the two out"):
        Target("old", column="camera", dataset_name="imagenet-c")


def test_the_test_split_is_corrupted_before_its_transform(fashion: Dataset) -> None:
    few = fashion.select(range(6))
    snow, again, other = (
        Target("snow", 3, seed).of(few.with_transform(not_called), "image", "label", recipe(), PROCESSOR)
        for seed in (0, 0, 1)
    )
    assert [one["labels"] for one in snow] == few["label"][:]
    for row in range(6):
        expected = pixels(corrupt(few[row]["image"], "snow", 3, seed_of(0, row)))
        assert torch.allclose(snow[row]["pixel_values"], expected)
        assert torch.equal(snow[row]["pixel_values"], again[row]["pixel_values"])
        assert not torch.equal(snow[row]["pixel_values"], other[row]["pixel_values"])


def imagenet_c(folder: Path) -> list[Image.Image]:
    """Two images of 56 px in its folders."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), np.uint8)
    for name, one in zip(("bag", "dress"), noise, strict=True):
        (folder / "snow" / "5" / name).mkdir(parents=True)
        Image.fromarray(one).save(folder / "snow" / "5" / name / "one.png")
    return [*map(Image.fromarray, noise)]


def test_imagenet_c_has_the_test_splits_columns_and_classes(
    fashion: Dataset, class_names: list[str], tmp_path: Path
) -> None:
    images = imagenet_c(tmp_path)
    test = fashion.select(range(2)).with_transform(not_called)
    # Where the test split is cropped, these are not: they are crops already.
    options = recipe(image_size=56, crop_scale=0.08)
    target = Target("snow", 5, dataset_name=str(tmp_path)).of(test, "image", "label", options, PROCESSOR)
    assert [class_names[one["labels"]] for one in target] == ["bag", "dress"]
    assert all(torch.allclose(one["pixel_values"], pixels(image)) for one, image in zip(target, images, strict=True))
    cropped = Target("brightness", 1).of(test, "image", "label", recipe(crop_scale=0.08), PROCESSOR)
    whole = Target("brightness", 1).of(test, "image", "label", recipe(), PROCESSOR)
    assert not torch.equal(cropped[0]["pixel_values"], whole[0]["pixel_values"])


def test_a_target_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"corruption is 'smog'"):
        Target("smog")
    with pytest.raises(ValueError, match=r"severity is 7"):
        Target("snow", 7)
    with pytest.raises(ValueError, match=r"seed is -1"):
        Target("snow", seed=-1)
    with pytest.raises(
        ValueError, match=r"dataset_config_name is 'snow_3', and there is no dataset_name: give the Hub"
    ):
        Target("snow", dataset_config_name="snow_3")


def test_what_a_target_needs_can_be_checked_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenet_c(tmp_path / "c")
    Target("snow", 5, dataset_name=str(tmp_path / "c")).check()
    # What it is on the Hub shows when it is asked for.
    Target("snow", 3, dataset_name="someone/imagenet-c", dataset_config_name="snow_3").check()
    with pytest.raises(ValueError, match=r"has no folder snow/3, nor has one of those in it"):
        Target("snow", 3, dataset_name=str(tmp_path / "c")).check()
    with pytest.raises(ValueError, match=r"there is no folder /no/such/folder: unpack ImageNet-C there"):
        Target("snow", 3, dataset_name="/no/such/folder").check()
    Target("snow").check()
    with monkeypatch.context() as patched:
        # Its modules are another package's.
        patched.setattr(corruptions, "PACKAGE", "no-such-package")
        with pytest.raises(ImportError, match=r"corruptions need no-such-package.*vecaf_hf\[corruptions\]"):
            Target("snow").check()
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match=r"vecaf_hf\[corruptions\]"):
        Target("snow").check()
    Target("snow", 5, dataset_name=str(tmp_path / "c")).check()


def test_a_target_may_be_inverted_or_rotated_and_needs_no_package_then(
    fashion: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    few = fashion.select(range(3)).with_transform(not_called)
    (target := Target("inverted")).check()
    seen = target.of(few, "image", "label", recipe(), PROCESSOR)
    for row in range(3):
        assert torch.allclose(seen[row]["pixel_values"], 1 - pixels(fashion[row]["image"]))
    with pytest.raises(ValueError, match=r"corruption is 'rotated'"):
        Target("rotated", dataset_name="someone/imagenet-c")


def test_some_of_a_split_are_the_same_part_of_each_class_under_every_target(fashion: Dataset) -> None:
    some = stratified(fashion, "label", 40)
    assert len(some) == 40 and some["label"] == stratified(fashion, "label", 40)["label"]
    counts = np.bincount(some["label"], minlength=10)
    assert np.abs(counts - np.bincount(fashion["label"], minlength=10) / 4).max() <= 1
    assert stratified(fashion, "label", None) is fashion is stratified(fashion, "label", len(fashion))
    seen = [Target(name).of(fashion, "image", "label", recipe(), PROCESSOR, most=40) for name in ("rotated", "fog")]
    assert [[one["labels"] for one in target] for target in seen] == [some["label"][:]] * 2
    assert torch.allclose(seen[0][7]["pixel_values"], pixels(some[7]["image"]).rot90(1, (1, 2)))


def test_a_pool_that_hides_conditions_is_tested_under_each(fashion: Dataset) -> None:
    hides = recipe(pool="hidden", hidden={"conditions": ["fog", "rotated"], "severity": 2, "tested": 10})
    assert conditions_of(hides) == {"fog": Target("fog", 2), "rotated": Target("rotated", 2)}
    assert conditions_of(recipe()) == {} and mean_and_worst({}) == {}
    logged, sizes = [], []

    def evaluate(seen: Dataset, metric_key_prefix: str) -> dict[str, float]:
        sizes.append(len(seen))
        return {f"{metric_key_prefix}_accuracy": {"test_fog": 0.25, "test_rotated": 0.75}[metric_key_prefix]}

    args = SimpleNamespace(label_column="label")
    trainer = SimpleNamespace(args=args, processing_class=PROCESSOR, evaluate=evaluate, log=logged.append)
    both = {"test_conditions_mean_accuracy": 0.5, "test_conditions_worst_accuracy": 0.25}
    found = evaluate_under_conditions(trainer, fashion, hides, "image")
    assert found == {"test_fog_accuracy": 0.25, "test_rotated_accuracy": 0.75, **both}
    assert logged == [both] and sizes == [10, 10]
    assert evaluate_under_conditions(trainer, fashion, recipe(), "image") == {} and len(logged) == 1
