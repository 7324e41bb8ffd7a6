"""Targets of a run's model: the test split corrupted, or ImageNet-C, under the test split's transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from vecaf_hf.recipe.targets import Target


def as_arrays(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"pixel_values": [np.asarray(one.convert("L")) for one in batch["image"]], "labels": batch["label"]}


def test_the_test_split_is_corrupted_before_its_transform(fashion: Dataset) -> None:
    test = fashion.select(range(6)).with_transform(as_arrays)
    snow, again, other = (Target("snow", 3, seed).of(test, "image", "label") for seed in (0, 0, 1))
    assert [one["labels"] for one in snow] == [one["labels"] for one in test]
    for row in range(6):
        assert snow[row]["pixel_values"].shape == (28, 28)
        assert not np.array_equal(snow[row]["pixel_values"], test[row]["pixel_values"])
        assert np.array_equal(snow[row]["pixel_values"], again[row]["pixel_values"])
        assert not np.array_equal(snow[row]["pixel_values"], other[row]["pixel_values"])


def test_imagenet_c_has_the_test_splits_columns_and_classes(
    fashion: Dataset, class_names: list[str], tmp_path: Path
) -> None:
    for name in ("bag", "dress"):
        (tmp_path / "snow" / "5" / name).mkdir(parents=True)
        fashion[0]["image"].save(tmp_path / "snow" / "5" / name / "one.png")
    test = fashion.select(range(2)).with_transform(as_arrays)
    target = Target("snow", 5, dataset_name=str(tmp_path)).of(test, "image", "label")
    assert [class_names[one["labels"]] for one in target] == ["bag", "dress"]
    assert np.array_equal(target[0]["pixel_values"], np.asarray(fashion[0]["image"]))


def test_a_target_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"corruption is 'smog'"):
        Target("smog")
    with pytest.raises(ValueError, match=r"severity is 7"):
        Target("snow", 7)
    with pytest.raises(ValueError, match=r"seed is -1"):
        Target("snow", seed=-1)
