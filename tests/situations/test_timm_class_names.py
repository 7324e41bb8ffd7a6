"""A timm model that was finetuned on other classes is saved, kept and loaded again with the names of these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from vecaf_hf import VeCAFTrainer

MakeTrainer = Callable[..., VeCAFTrainer]


@pytest.fixture
def of_old_classes(tmp_path: Path) -> str:
    """A checkpoint that transformers' wrapper has saved once, of three classes."""
    config = TimmWrapperConfig(architecture="test_vit", model_args={"img_size": 32}, num_labels=3)
    config.label_names = ["cat", "dog", "eel"]
    TimmWrapperForImageClassification(config).save_pretrained(tmp_path / "old")
    return str(tmp_path / "old")


def names_in(folder: Path) -> list[str]:
    names = AutoConfig.from_pretrained(folder).id2label
    return [names[index] for index in sorted(names)]


@pytest.mark.parametrize("is_rising", [True, False], ids=["in order", "written backwards"])
def test_saves_and_checkpoints_have_the_new_names(
    make_trainer: MakeTrainer,
    of_old_classes: str,
    train: Dataset,
    class_names: list[str],
    tmp_path: Path,
    is_rising: bool,
) -> None:
    indexed = list(enumerate(class_names))
    by_index = dict(indexed if is_rising else indexed[::-1])
    model = AutoModelForImageClassification.from_pretrained(
        of_old_classes,
        num_labels=10,
        id2label=by_index,
        label2id={name: index for index, name in by_index.items()},
        ignore_mismatched_sizes=True,
    )
    options: dict[str, Any] = {"max_steps": 2, "num_loops": 2, "save_strategy": "epoch", "strategy": "balanced"}
    trainer = make_trainer(model, **options)
    trainer.train()
    trainer.save_model()
    trainer.model.save_pretrained(tmp_path / "by hand")
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1", tmp_path / "by hand"):
        assert names_in(folder) == class_names, folder


def test_names_that_were_given_by_number_alone_stay(
    make_trainer: MakeTrainer, of_old_classes: str, tmp_path: Path
) -> None:
    model = AutoModelForImageClassification.from_pretrained(of_old_classes, num_labels=3)
    trainer = make_trainer(model, strategy="balanced", label_column="none")
    trainer.save_model()
    assert names_in(tmp_path / "run") == ["cat", "dog", "eel"]


def test_names_that_change_after_construction_are_saved(
    make_trainer: MakeTrainer, of_old_classes: str, tmp_path: Path
) -> None:
    model = AutoModelForImageClassification.from_pretrained(of_old_classes)
    trainer = make_trainer(model, strategy="balanced", label_column="none")
    model.config.id2label = {0: "boot", 1: "coat", 2: "hat"}
    trainer.save_model()
    assert names_in(tmp_path / "run") == ["boot", "coat", "hat"]
