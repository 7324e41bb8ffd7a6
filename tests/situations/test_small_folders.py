"""The recipe takes a small folder of images as it is, or says in a sentence what it cannot make of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from every_case import every_case
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.cli.building import build_trainer, captions_of, load_splits
from vecaf_hf.cli.options import RecipeArguments


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def pictures(folder: Path, counts: dict[str, int]) -> list[str]:
    """Class folders of so many images; their files, relative to the folder."""
    files = []
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            Image.fromarray(np.full((8, 8, 3), 20 * number + place, np.uint8)).save(folder / name / f"{place}.png")
            files.append(f"{name}/{place}.png")
    return files


def splits_of(folder: Path, **options: Any) -> DatasetDict:
    return load_splits(RecipeArguments(dataset_name=str(folder), **{"test_split": None, **options}), None)[0]


def rows(folder: Path, labels: list[Any], kind: Any = None) -> Path:
    folder.mkdir(parents=True)
    features = None if kind is None else Features({"number": Value("int64"), "label": kind})
    rows = {"number": list(range(len(labels))), "label": labels}
    Dataset.from_dict(rows, features=features).to_parquet(str(folder / "train.parquet"))
    return folder


@every_case(
    ("counts", "fraction", "held"), [((5, 5, 5), 0.02, 1), ((9, 1), 0.2, 2), ((2, 2, 1, 1), 0.5, 2), ((40, 40), 0.1, 8)]
)
def test_what_is_held_out_of_few_images_leaves_one_of_each_class(
    tmp_path: Path, counts: tuple[int, ...], fraction: float, held: int
) -> None:
    folder = tmp_path / "x".join(map(str, counts))
    pictures(folder, {f"class {number}": count for number, count in enumerate(counts)})
    splits = splits_of(folder, validation_fraction=fraction)
    assert (len(splits["validation"]), len(splits["train"])) == (held, sum(counts) - held)
    assert set(splits["train"]["label"]) == set(range(len(counts)))
    again = splits_of(folder, validation_fraction=fraction)
    assert splits["train"]["label"] == again["train"]["label"]


def test_one_image_of_each_class_holds_nothing_out(tmp_path: Path) -> None:
    pictures(tmp_path / "data", {"cat": 1, "dog": 1})
    with pytest.raises(ValueError, match="nothing can be held out of 2 samples"):
        splits_of(tmp_path / "data")
    assert splits_of(tmp_path / "data", validation_fraction=0).keys() == {"train"}


def test_without_validation_the_run_evaluates_nothing_and_trains(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures(tmp_path / "data", {"cat": 4, "dog": 4})
    recipe = RecipeArguments(
        dataset_name=str(tmp_path / "data"),
        model_name_or_path=tiny_model(tmp_path),
        text_encoder=None,
        test_split=None,
        validation_fraction=0,
        image_size=32,
    )
    options: dict[str, Any] = {"max_steps": 2, "num_loops": 2, "selection_fraction": 0.5, "eval_strategy": "epoch"}
    args = VeCAFArguments(
        output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", disable_tqdm=True, **options
    )
    with caplog.at_level(logging.WARNING):
        trainer, test = build_trainer(recipe, CEAOptions(), args)
        assert test is None and trainer.train().global_step == 2
    assert "the run evaluates nothing" in caplog.text
    best = VeCAFArguments(
        output_dir=str(tmp_path / "best"), load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch"
    )
    with pytest.raises(ValueError, match=r"load_best_model_at_end .* set validation_fraction above 0"):
        build_trainer(recipe, CEAOptions(), best)


def tiny_model(folder: Path) -> str:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16))
    for part in (model, ViTImageProcessor()):
        part.save_pretrained(folder / "model")
    return str(folder / "model")


KINDS: dict[str, tuple[list[Any], Any, list[str]]] = {
    "booleans": ([True, False] * 20, None, ["false", "true"]),
    "whole floats": ([0.0, 1.0, 2.0, 2.0] * 10, None, ["0", "1", "2"]),
    "numbers": ([7, 12, 203, 7] * 10, None, ["7", "12", "203"]),
    "names": (["dog", "cat"] * 20, None, ["cat", "dog"]),
}


@every_case("kind", KINDS)
def test_labels_of_any_type_are_classes(tmp_path: Path, kind: str) -> None:
    labels, feature, names = KINDS[kind]
    splits = splits_of(rows(tmp_path / kind, labels, feature), validation_fraction=0.1)
    assert splits["train"].features["label"].names == names
    both = [label for split in ("train", "validation") for label in splits[split]["label"]]
    assert sorted(both) == sorted(names.index(str(label).lower().removesuffix(".0")) for label in labels)


REFUSED: dict[str, tuple[list[Any], Any, str]] = {
    "lists": ([[0, 1], [1]] * 9, List(Value("int64")), "labels in column 'label' are lists: a recipe trains"),
    "fractions": ([0.5, 1.5, 0.25] * 6, None, "are numbers such as 0.5: a recipe trains"),
    "infinite": ([1.0, float("inf")] * 9, None, "a recipe trains"),
    "one class": (["cat"] * 18, None, "all samples of the split 'train' have the class 'cat'"),
    "missing": (["cat", None, "dog"] * 6, None, "some samples of the split 'train' have no 'label'"),
    "not a number": ([1.0, float("nan"), 2.0] * 6, None, "some samples of the split 'train' have no 'label'"),
}


@every_case("kind", REFUSED)
def test_what_is_no_class_is_told(tmp_path: Path, kind: str) -> None:
    labels, feature, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        splits_of(rows(tmp_path / kind, labels, feature))


def test_a_class_that_only_the_test_has_is_told(tmp_path: Path) -> None:
    folder = rows(tmp_path / "data", ["cat", "dog"] * 9)
    Dataset.from_dict({"number": [0, 1], "label": ["cat", "eel"]}).to_parquet(str(folder / "test.parquet"))
    with pytest.raises(ValueError, match="the split 'test' has the classes eel, which the split 'train' has not"):
        splits_of(folder, test_split="test")


@pytest.mark.parametrize("captions", [False, True])
@pytest.mark.parametrize("odd", ["train", "test_tube"])
def test_a_class_may_have_a_splits_name(tmp_path: Path, odd: str, captions: bool) -> None:
    for split, count in (("train", 3), ("test", 2)):
        files = pictures(tmp_path / "split" / split, {"bus": count, odd: count})
        if captions:
            lines = "".join(f"{file},a picture\n" for file in files)
            (tmp_path / "split" / split / "metadata.csv").write_text("file_name,text\n" + lines)
    splits = splits_of(tmp_path / "split", test_split="test", validation_fraction=0)
    assert splits["train"]["label"] == [0, 0, 0, 1, 1, 1] and splits["test"]["label"] == [0, 0, 1, 1]
    pictures(tmp_path / "split" / "eval", {"bus": 1, odd: 1})
    assert len(splits_of(tmp_path / "split", test_split="test", validation_fraction=0)["test"]) == 6
    pictures(tmp_path / "plain", {"airport": 3, "bridge": 3, odd: 3})
    assert sorted(splits_of(tmp_path / "plain", validation_fraction=0)["train"]["label"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


# --- Captions beside class folders ---


@pytest.mark.parametrize("place", ["train", "train and test", "the folder"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_class_folders_with_captions_have_both(tmp_path: Path, place: str, ending: str) -> None:
    folder = tmp_path / "data"
    files = {split: pictures(folder / split, {"cat": 3, "dog": 3}) for split in ("train", "test")}
    described = {"train": ["train"], "train and test": ["train", "test"], "the folder": [""]}[place]
    for where in described:
        names = [f"{split}/{file}" for split in files for file in files[split]] if not where else files[where]
        # The last one has no row.
        table = [{"file_name": name, "text": f"the picture {'/'.join(name.split('/')[-2:])}"} for name in names[:-1]]
        if ending == "jsonl":
            text = "\n".join(map(json.dumps, table))
        else:
            text = "\n".join(["file_name,text", *(",".join(row.values()) for row in table)])
        (folder / where / f"metadata.{ending}").write_text(text + "\n")
    recipe = RecipeArguments(dataset_name=str(folder), captions="text", validation_fraction=0)
    splits, label = load_splits(recipe, None)
    train = splits["train"]
    assert label == "label" and train.features["label"].names == ["cat", "dog"]
    assert train["label"] == [0, 0, 0, 1, 1, 1] == splits["test"]["label"]
    assert train["text"][:5] == [f"the picture {name}" for name in files["train"]][:5]
    assert captions_of(recipe, train, label) == "text"


def test_a_row_for_an_image_that_is_not_there_is_told(tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "train", {"cat": 2, "dog": 2})
    (tmp_path / "data" / "train" / "metadata.csv").write_text("file_name,text\ncat/9.png,gone\n")
    with pytest.raises(ValueError, match=r"metadata names .*cat/9\.png, which the dataset does not have"):
        splits_of(tmp_path / "data")


def test_labels_in_the_metadata_count_as_before(tmp_path: Path) -> None:
    files = pictures(tmp_path / "data" / "train", {"a": 4, "b": 4})
    lines = [f"{file},{'even' if place % 2 == 0 else 'odd'}" for place, file in enumerate(files)]
    (tmp_path / "data" / "train" / "metadata.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
    splits = splits_of(tmp_path / "data", validation_fraction=0)
    assert splits["train"].features["label"].names == ["even", "odd"]
