"""CutMix and MixUp in the collator: classes keep their shares, whole samples are scored, and a run repeats itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pixels import collate
from torch import Tensor
from torchvision.transforms import v2
from transformers import PreTrainedModel

from vecaf_hf import VeCAFTrainer
from vecaf_hf.selection import Candidates

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


def cut_and_mixed(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = collate(samples)
    pixels, labels = v2.RandomChoice([v2.CutMix(num_classes=10), v2.MixUp(num_classes=10)])(*batch.values())
    return {"pixel_values": pixels, "labels": labels}


def soft_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs["logits"], labels)


MIXING = {"data_collator": cut_and_mixed, "compute_loss_func": soft_loss, "eval_dataset": None}


@pytest.fixture
def uneven(fashion: Dataset, train: Dataset) -> Dataset:
    """Nine samples of one class, three of others."""
    labels = torch.tensor(fashion["label"][: len(train)])
    rows = [torch.nonzero(labels == label)[: 9 if label == 0 else 3, 0] for label in range(4)]
    return train.select(torch.cat(rows).tolist())


@pytest.mark.parametrize("strategy", ["balanced", "ods"])
def test_classes_have_equal_shares(
    make_vit: MakeModel, make_trainer: MakeTrainer, uneven: Dataset, strategy: str
) -> None:
    given = {**MIXING, "scoring_collator": collate}
    trainer = make_trainer(make_vit(), pool=uneven, trainer=given, strategy=strategy, selection_budget=12)
    trainer.train()
    for record in trainer.loop_records:
        assert record.class_counts == dict.fromkeys(range(4), 3)


def test_whole_samples_are_scored(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    watch: Callable[[str, Callable[[Candidates], object]], None],
) -> None:
    seen: list[Candidates] = []
    watch("topk_loss", seen.append)
    options = {"strategy": "topk_loss", "num_loops": 1, "max_steps": 1}
    make_trainer(make_vit(), trainer={**MIXING, "scoring_collator": collate}, **options).train()
    make_trainer(make_vit(), trainer={**MIXING, "data_collator": collate}, **options).train()
    mixing, whole = seen
    assert torch.equal(mixing.given("losses"), whole.given("losses"))


def test_without_a_collator_for_scoring_what_scores_is_refused_and_what_does_not_trains(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"mixes samples .* pass scoring_collator"):
        make_trainer(make_vit(), trainer=MIXING, strategy="ods").train()
    make_trainer(make_vit(), trainer=MIXING, strategy="random").train()


def test_the_same_run_with_workers_and_resumed_inside_a_loop(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def run(name: str, resume: bool | str = False, **options: Any) -> dict[str, Tensor]:
        saving = {"save_strategy": "steps", "save_steps": 3, "output_dir": str(tmp_path / name), "max_steps": 8}
        trainer = make_trainer(make_vit(), trainer=MIXING, strategy="balanced", **saving, **options)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = run("whole")
    for other in (run("workers", dataloader_num_workers=2), run("resumed", str(tmp_path / "whole" / "checkpoint-3"))):
        assert all(torch.equal(values, other[name]) for name, values in whole.items())


def test_looking_at_whole_labels_settles_no_loss_for_mixed_ones(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    """The model's own loss, which transformers settles by the first labels it sees: training's, not scoring's."""
    given = {"data_collator": cut_and_mixed, "scoring_collator": collate, "eval_dataset": None}
    trainer = make_trainer(make_vit(), trainer=given, strategy="balanced", num_loops=1, max_steps=2)
    trainer.train()
    assert trainer.model.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("strategy", ["balanced", "trimmed"])
def test_mixed_labels_that_no_column_has_are_told(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    caplog: pytest.LogCaptureFixture,
    strategy: str,
) -> None:
    """The default selects at random then; with a collator for scoring it goes by classes."""

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(train)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return train[index]

    options = {"strategy": strategy, "selection_budget": 20, "max_steps": 2}
    mixing = make_trainer(make_vit(), pool=Pictures(), trainer=MIXING, **options)
    with caplog.at_level(logging.WARNING):
        if strategy == "balanced":
            mixing.train()
            assert "give a scoring_collator" in caplog.text and mixing.args.strategy == "random"
        else:
            with pytest.raises(ValueError, match="give a scoring_collator"):
                mixing.train()
    whole = make_trainer(make_vit(), pool=Pictures(), trainer={**MIXING, "scoring_collator": collate}, **options)
    whole.train()
    assert set(whole.loop_records[0].class_counts.values()) == {2}
