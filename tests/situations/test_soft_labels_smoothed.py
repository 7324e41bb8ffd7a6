"""Label smoothing with labels that are no whole numbers is refused before the pool is scored; with an objective of
one's own such labels train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot
from transformers import PreTrainedModel

from vecaf_hf import VeCAFTrainer


def soft(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    labels = one_hot(torch.tensor([sample["labels"] for sample in samples]), 10).float()
    return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples]), "labels": labels}


@pytest.mark.parametrize("strategy", ["balanced", "ods"])
def test_smoothing(
    make_vit: Callable[..., PreTrainedModel], make_trainer: Callable[..., VeCAFTrainer], strategy: str
) -> None:
    def own(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(outputs.logits, labels, label_smoothing=0.1, reduction="none")

    given = {"data_collator": soft, "eval_dataset": None}
    trainer = make_trainer(make_vit(), trainer=given, strategy=strategy, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing_factor is 0\.1, and labels are torch\.float32"):
        trainer.train()
    assert trainer.meter.work["score"].samples <= 16
    given["sample_loss_func"] = own
    make_trainer(make_vit(), trainer=given, strategy=strategy, max_steps=2).train()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_binary_cross_entropy_for_single_classes_is_told_once(
    make_vit: Callable[..., PreTrainedModel],
    make_trainer: Callable[..., VeCAFTrainer],
    caplog: pytest.LogCaptureFixture,
    accumulation: int,
) -> None:
    given, run = {"data_collator": soft, "eval_dataset": None}, {"strategy": "balanced", "max_steps": 2}
    make_trainer(make_vit(), trainer=given, gradient_accumulation_steps=accumulation, **run).train()
    assert caplog.text.count("trains a binary cross entropy for each class") == 1
    caplog.clear()
    make_trainer(make_vit(problem_type="multi_label_classification"), trainer=given, **run).train()
    assert "binary cross entropy" not in caplog.text
