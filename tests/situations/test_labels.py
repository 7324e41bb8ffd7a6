"""Labels in the shapes that plain Trainer takes train here too, and what the classes cannot be read from is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from datasets import Dataset
from pixels import collate
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, ViTForImageClassification

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
SHORT: dict[str, Any] = {"num_loops": 2, "max_steps": 2, "selection_budget": 20}


class Pictures(torch.utils.data.Dataset):
    """Images with labels of any shape, and whatever else a dataset may have."""

    def __init__(self, images: Dataset, labels: Any, **attributes: Any) -> None:
        self.images, self.labels = images, labels
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.images[index]["pixel_values"], "labels": self.labels[index]}


def stacked(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    labels = torch.stack([torch.as_tensor(sample["labels"]) for sample in samples])
    return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples]), "labels": labels}


GIVEN = {"data_collator": stacked, "eval_dataset": None}


@pytest.fixture
def classes(fashion: Dataset, train: Dataset) -> Tensor:
    return torch.tensor(fashion["label"][: len(train)])


@pytest.mark.parametrize("strategy", ["balanced", "ods"])
def test_a_column_of_classes_selects_as_a_row_of_them(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, classes: Tensor, strategy: str
) -> None:
    options = {"strategy": strategy, "on_bad_sample": "raise", **SHORT}
    found = []
    for labels in (classes, classes[:, None]):
        trainer = make_trainer(make_vit(), pool=Pictures(train, labels), trainer=GIVEN, **options)
        trainer.train()
        found.append([selection.indices.tolist() for selection in trainer.selection_history])
    assert found[0] == found[1]


MULTI = {"problem_type": "multi_label_classification"}


@pytest.mark.parametrize(
    ("config", "labels", "is_told"),
    [
        (MULTI, torch.eye(10).repeat(12, 1) + torch.eye(10).roll(1, 0).repeat(12, 1), "at construction"),
        ({"num_labels": 1}, torch.rand(120), "at construction"),
        ({"num_labels": 1}, (torch.arange(120) % 9).float(), "at construction"),
        ({}, torch.ones(120, 10), "later"),
    ],
    ids=["multi-label", "regression", "whole numbers", "by its labels alone"],
)
def test_the_default_gives_way_to_chance_where_there_are_no_classes(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    caplog: pytest.LogCaptureFixture,
    config: dict[str, Any],
    labels: Tensor,
    is_told: str,
) -> None:
    def make() -> PreTrainedModel:
        changed = make_vit().config
        for name, value in config.items():
            setattr(changed, name, value)
        return ViTForImageClassification(changed)

    def told() -> int:
        return sum("random selects instead" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(make(), pool=Pictures(train, labels), trainer=GIVEN, strategy="balanced", **SHORT)
        assert told() == (is_told == "at construction")
        trainer.train()
    assert told() == 1 and trainer.args.strategy == "random"
    assert all(len(selection) == 20 for selection in trainer.selection_history)
    plain = Trainer(model=make(), args=trainer.args, train_dataset=Pictures(train, labels), **GIVEN)
    assert plain.train().global_step == trainer.state.global_step
    other = make_trainer(make(), pool=Pictures(train, labels), trainer=GIVEN, strategy="balanced", **SHORT)
    assert other.inspect(samples=8).strategy == "random"


def test_a_run_without_classes_keeps_its_pool_and_another_set_may_have_them(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, classes: Tensor, broken: Any
) -> None:
    class Looks(TrainerCallback):
        def on_step_end(self, *args: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
            next(iter(train_dataloader))
            pools.append(trainer.pool)

    pools: list[Any] = []
    pool = Pictures(broken(train, {0}), torch.ones(120, 10))
    options = {**SHORT, "strategy": "balanced", "on_bad_sample": "skip"}
    trainer = make_trainer(make_vit(), [Looks()], pool, GIVEN, **options)
    made = trainer.pool
    trainer.train()
    assert trainer.loop is not None and all(one is trainer.loop.pool is made for one in pools)
    assert list(trainer.skipped_samples) == [0] and trainer.report.skipped == 1
    trainer.train_dataset, trainer.model.config.problem_type = Pictures(train, classes), None
    trainer.train()
    assert trainer.args.strategy == "balanced" and set(trainer.loop_records[0].class_counts.values()) == {2}


@pytest.mark.parametrize("strategy", ["balanced", "ods", "random", "full"])
@pytest.mark.parametrize("place", ["column", "batches"])
def test_samples_to_ignore_are_not_selected_and_are_counted(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    classes: Tensor,
    caplog: pytest.LogCaptureFixture,
    strategy: str,
    place: str,
) -> None:
    if place == "batches" and strategy in ("random", "full"):
        pytest.skip("nothing looks at the labels before they are trained on, as with plain Trainer")
    labels = classes.clone()
    labels[::3] = -100
    targets = {"targets": labels} if place == "column" else {}
    pool = Pictures(train, labels, **targets)
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(make_vit(), pool=pool, trainer=GIVEN, strategy=strategy, **{**SHORT, "max_steps": 12})
        trainer.train()
    assert not any((selection.indices % 3 == 0).any() for selection in trainer.selection_history)
    assert "40 of 120 samples have the label -100" in caplog.text


@pytest.mark.parametrize("strategy", ["balanced", "ods"])
def test_a_budget_of_all_is_of_all_that_count(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, classes: Tensor, strategy: str
) -> None:
    labels = classes.clone()
    labels[::3] = -100
    options = {**SHORT, "selection_budget": None, "selection_fraction": 1.0, "strategy": strategy}
    trainer = make_trainer(make_vit(), pool=Pictures(train, labels, targets=labels), trainer=GIVEN, **options)
    trainer.train()
    assert all(len(selection) == 80 for selection in trainer.selection_history)


def test_a_run_that_finds_them_in_its_batches_resumes_to_the_same(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, classes: Tensor, tmp_path: Path
) -> None:
    labels = classes.clone()
    labels[::3] = -100

    def run(name: str, resume: str | bool = False) -> VeCAFTrainer:
        saving = {"save_strategy": "steps", "save_steps": 3, "output_dir": str(tmp_path / name)}
        part = {"strategy": "ods", "rescore": "sampled", "scoring_fraction": 0.4, "num_loops": 4}
        trainer = make_trainer(make_vit(), pool=Pictures(train, labels), trainer=GIVEN, **saving, **part)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, resumed = run("whole"), run("resumed", str(tmp_path / "whole" / "checkpoint-3"))
    for one, other in zip(whole.selection_history, resumed.selection_history, strict=True):
        assert one.indices.tolist() == other.indices.tolist()
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name


def test_neither_a_look_nor_another_run_tells_a_run_whom_it_ignores(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, classes: Tensor
) -> None:
    labels = classes.clone()
    labels[::3] = -100
    part = {"strategy": "ods", "rescore": "sampled", "scoring_fraction": 0.4, "num_loops": 2}
    found = []
    for looks in (True, False):
        trainer = make_trainer(make_vit(), pool=Pictures(train, labels), trainer=GIVEN, **part)
        if looks:
            next(iter(trainer.get_train_dataloader()))
            assert not trainer.pool.ignored.any()
        for _ in range(2):
            trainer.model.load_state_dict(make_vit().state_dict())
            trainer.optimizer = trainer.lr_scheduler = None
            trainer.train()
            found.append([selection.indices.tolist() for selection in trainer.selection_history])
    assert all(one == found[0] for one in found)


def test_ids_that_a_transform_maps_are_named(make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset) -> None:
    raw = train.with_format(None)
    ids = raw.remove_columns("label").add_column("label", [100 + 7 * label for label in raw["label"]])
    transform = train.format["format_kwargs"]["transform"]

    def mapped(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return transform({**batch, "label": [(label - 100) // 7 for label in batch["label"]]})

    pool = ids.with_transform(mapped)
    with pytest.raises(ValueError, match="set label_column='none' if a transform makes other labels"):
        make_trainer(make_vit(), pool=pool, **SHORT)
    options = {"strategy": "balanced", "label_column": "none", **SHORT}
    mapping, whole = make_trainer(make_vit(), pool=pool, **options), make_trainer(make_vit(), **options)
    mapping.train()
    whole.train()
    assert mapping.loop_records[-1].class_counts == whole.loop_records[-1].class_counts


def test_targets_of_a_shuffled_frame_are_taken_by_place(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, classes: Tensor
) -> None:
    # Its rows are labelled by where they came from.
    targets = pandas.Series(classes.tolist(), index=range(500, 620)).sample(frac=1, random_state=0).sort_index()
    trainer = make_trainer(make_vit(), pool=Pictures(train, classes, targets=targets), trainer=GIVEN, **SHORT)
    assert trainer.pool.labels is not None and torch.equal(trainer.pool.labels, classes)


@pytest.mark.parametrize("count", [60, 200])
def test_targets_of_another_length_are_left_alone(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    classes: Tensor,
    caplog: pytest.LogCaptureFixture,
    count: int,
) -> None:
    pool = Pictures(train, classes, targets=torch.zeros(count, dtype=torch.long))
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(make_vit(), pool=pool, trainer=GIVEN, strategy="balanced", **SHORT)
        trainer.train()
    assert f"{count} `targets` for 120 samples" in caplog.text
    assert set(trainer.loop_records[0].class_counts.values()) == {2}


def test_labels_that_are_mapped_unnoticed_are_told(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, classes: Tensor
) -> None:
    pool = Pictures(train, classes, targets=9 - classes)
    with pytest.raises(ValueError, match=r"the label column gives sample 0 class .* or to 'none'"):
        make_trainer(make_vit(), pool=pool, trainer={**GIVEN, "data_collator": collate}, **SHORT).train()
