"""Models and numbers that ended in an error of some library's: they train, or a sentence says what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers as tf
from datasets import Dataset
from every_case import every_case
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel, set_seed

from vecaf_hf import VeCAFTrainer
from vecaf_hf.selection import Candidates, SelectionOptions, run_strategy
from vecaf_hf.selection.registry import STRATEGIES

MakeTrainer = Callable[..., VeCAFTrainer]


def pplcnet() -> nn.Module:
    """In transformers 5.23.0 its image classifier returns neither logits nor a loss."""
    return tf.PPLCNetForImageClassification(tf.PPLCNetConfig(num_labels=10))


def test_no_logits(make_trainer: MakeTrainer, train: Dataset) -> None:
    with pytest.raises(ValueError, match=r"returns no logits \(its output has last_hidden_state\).*'balanced'"):
        make_trainer(pplcnet(), pool=train.select(range(20)), strategy="ods").train()


def test_lora_on_the_head_is_no_linear_one(make_vit: Callable[..., PreTrainedModel], make_trainer: MakeTrainer) -> None:
    model = get_peft_model(make_vit(), LoraConfig(r=2, target_modules=["classifier"]))
    with pytest.raises(ValueError, match="linear head, and this one is Linear, adapted by PEFT"):
        make_trainer(model, strategy="alfa_mix")


EMBEDDED = sorted(name for name, one in STRATEGIES.items() if "embeddings" in one.reads and "head" not in one.reads)


@every_case("strategy", EMBEDDED)
@every_case("exponent", [100, -100])
def test_embeddings_of_any_size(strategy: str, exponent: int) -> None:
    """Twice a hundred times larger or smaller, K distinct samples are selected; badge's are the same."""
    set_seed(0)
    embeddings, logits, labels = torch.randn(40, 5), torch.randn(40, 4), torch.arange(40) % 4
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    options = SelectionOptions(strategy=strategy, selection_steps=3)
    found = []
    for values in (embeddings, embeddings * 2.0**exponent):
        candidates = Candidates(torch.arange(40), values, losses, labels, logits)
        found.append(run_strategy(STRATEGIES[strategy], candidates, 8, options, 0).indices.tolist())
    assert len(set(found[1])) == 8
    assert strategy != "badge" or found[0] == found[1]
