"""Mixed precision: bfloat16 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from weighing import weighted_ods

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer


@pytest.mark.parametrize("kind", ["vit", "efficientnet"])
def test_bf16_runs(
    make_vit: Callable[..., PreTrainedModel],
    make_trainer: Callable[..., VeCAFTrainer],
    train: Dataset,
    text_encoder: TextEncoder,
    labelled: dict[str, Any],
    kind: str,
) -> None:
    model = make_vit()
    if kind == "efficientnet":
        config = tf.TimmWrapperConfig(architecture="efficientnet_lite0", **labelled)
        model = tf.TimmWrapperForImageClassification(config)
    entered: list[torch.dtype] = []
    cea = CEACallback(text_encoder, "a photo of a {label}", domain_prompt="It's a snowy day.")
    trainer = make_trainer(
        model,
        [cea],
        pool=train.select(range(60)),
        bf16=True,
        max_steps=4,
        eval_strategy="epoch",
        strategy=weighted_ods,
        selection_budget=15,
    )
    head = trainer.scorer.head
    head.register_forward_hook(lambda module, inputs, output: entered.append(output.dtype))
    trainer.train()
    assert torch.bfloat16 in entered
    values = [log[key] for log in trainer.state.log_history for key in ("loss", "eval_loss", "grad_norm") if key in log]
    assert values
    assert all(math.isfinite(value) for value in values)
    assert all(torch.isfinite(weights).all() for weights in model.state_dict().values())
    assert all(weights.dtype != torch.bfloat16 for weights in model.state_dict().values())
    assert all(len(selection) == 15 for selection in trainer.selection_history)
    assert all(math.isfinite(record.info["cea_relative_shift"]) for record in trainer.loop_records)
    # Statistics of a fresh BatchNorm say nothing in evaluation mode, nor then do embeddings.
    assert kind != "vit" or trainer.loop_records[0].info["cea_relative_shift"] > 1e-4


def test_bf16_scores_are_close_to_float32(
    make_vit: Callable[..., PreTrainedModel], make_trainer: Callable[..., VeCAFTrainer]
) -> None:
    def scores(bf16: bool) -> Any:
        seen: list[Any] = []

        def watched(candidates: Any, budget: int, options: Any, generator: Any) -> Tensor:
            seen.append(candidates)
            return torch.arange(budget)

        make_trainer(make_vit(), strategy=watched, bf16=bf16, num_loops=1, max_steps=1).train()
        return seen[0]

    low, full = scores(True), scores(False)
    assert low.embeddings.dtype == low.losses.dtype == low.logits.dtype == torch.float32
    torch.testing.assert_close(low.losses, full.losses, rtol=0.02, atol=0.02)
    assert torch.nn.functional.cosine_similarity(low.embeddings, full.embeddings).min() > 0.999
