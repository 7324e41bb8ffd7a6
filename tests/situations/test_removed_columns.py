"""Columns that a transform reads reach it, though the model does not take them; what else is removed is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from pixels import collate, to_pixels
from transformers import PreTrainedModel, TrainingArguments

from vecaf_hf import VeCAFTrainer
from vecaf_hf.data.indexed import Draw, IndexedDataset
from vecaf_hf.data.unused_columns import UnusedColumns

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
# As TrainingArguments have it by default.
REMOVING = {"remove_unused_columns": True, "num_loops": 2, "max_steps": 2, "eval_strategy": "epoch"}


@pytest.mark.parametrize("collator", [collate, None], ids=["own collator", "default collator"])
@pytest.mark.parametrize("strategy", ["balanced", "ods"])
def test_set_transform_trains_and_evaluates(
    make_vit: MakeModel, make_trainer: MakeTrainer, fashion: Dataset, strategy: str, collator: Any
) -> None:
    def with_all(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**batch, **to_pixels(batch)}

    pool, other = fashion.select(range(60)), fashion.select(range(60, 90))
    pool.set_transform(with_all)
    other.set_transform(with_all)
    given = {"eval_dataset": other, "data_collator": collator}
    trainer = make_trainer(make_vit(), pool=pool, trainer=given, strategy=strategy, **REMOVING)
    trainer.train()
    assert any("eval_loss" in log for log in trainer.state.log_history)


def test_plain_arguments_too(make_vit: MakeModel, fashion: Dataset, tmp_path: Any) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True)
    pool = fashion.select(range(40)).with_transform(to_pixels)
    trainer = VeCAFTrainer(model=make_vit(), args=args, train_dataset=pool, data_collator=collate)
    assert trainer.train().global_step == 2


def test_what_the_transform_does_not_read_is_removed_before_it(
    make_vit: MakeModel, make_trainer: MakeTrainer, fashion: Dataset
) -> None:
    stored = fashion.select(range(40)).map(
        lambda row: {"pixel_values": to_pixels({"image": [row["image"]], "label": [0]})["pixel_values"][0]}
    )
    seen: set[str] = set()

    def tensors(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        seen.update(batch)
        return {**batch, "labels": batch["label"]}

    def small(samples: list[dict[str, Any]]) -> dict[str, Any]:
        pixels = torch.tensor([sample["pixel_values"] for sample in samples])
        return {"pixel_values": pixels, "labels": torch.tensor([sample["labels"] for sample in samples])}

    pool = stored.with_transform(tensors)
    make_trainer(
        make_vit(),
        pool=pool,
        trainer={"data_collator": small, "eval_dataset": None},
        **{**REMOVING, "eval_strategy": "no"},
    ).train()
    assert seen == {"pixel_values", "label"}


def test_a_collator_that_misses_a_column_is_told_which_option_keeps_it(
    make_vit: MakeModel, make_trainer: MakeTrainer, fashion: Dataset
) -> None:
    def from_images(samples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = {name: [sample[name] for sample in samples] for name in ("image", "label")}
        return collate(
            [
                dict(zip(("pixel_values", "labels"), pair, strict=True))
                for pair in zip(*to_pixels(batch).values(), strict=True)
            ]
        )

    given = {"data_collator": from_images, "eval_dataset": None}
    options = {**REMOVING, "eval_strategy": "no"}
    with pytest.raises(ValueError, match=r"reads 'image', and the columns .*were removed.*remove_unused_columns=False"):
        make_trainer(make_vit(), pool=fashion, trainer=given, **options).train()
    make_trainer(make_vit(), pool=fashion, trainer=given, **{**options, "remove_unused_columns": False}).train()


def test_a_transform_that_asks_for_a_seed_of_each_samples_own_has_it_still() -> None:
    def alone(batch: dict[str, list[int]]) -> dict[str, list[int]]:
        return {"labels": batch["label"], "given": [len(batch["hidden"])] * len(batch["label"])}

    alone.one_by_one = True  # type: ignore[attr-defined]
    stored = Dataset.from_dict({"label": [0, 1], "hidden": [5, 6]}).with_transform(alone)
    pool = UnusedColumns().removed(stored, lambda dataset: dataset.remove_columns("hidden"))
    items = [item for _, item in IndexedDataset(pool, 0).__getitems__([Draw(0), Draw(1)])]
    assert items == [{"labels": 0, "given": 1}, {"labels": 1, "given": 1}]
