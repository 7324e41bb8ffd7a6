"""LoRA by PEFT: only the adapter and the head learn, and only they are in checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from resumed_runs import assert_same_run, losses
from safetensors.torch import load_file
from transformers import PreTrainedModel

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.reporting.amending import with_repository

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
STEPS = {"save_strategy": "steps", "save_steps": 3, "learning_rate": 0.01}


@pytest.fixture
def make_lora(make_vit: MakeModel) -> Callable[..., PeftModel]:
    """The ViT with LoRA in its attention, with dropout, and a head that learns as a whole."""

    def make(seed: int = 0) -> PeftModel:
        base = make_vit(0)
        torch.manual_seed(seed)
        modules = [name for name, _ in base.named_modules() if name.endswith(("q_proj", "v_proj", "query", "value"))]
        assert len(modules) == 4
        config = LoraConfig(r=2, lora_dropout=0.1, target_modules=modules, modules_to_save=["classifier"])
        return get_peft_model(base, config)

    return make


def logits_of(model: Any, dataset: Dataset) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(pixel_values=torch.stack(dataset[:]["pixel_values"])).logits


@pytest.mark.parametrize("strategy", ["ods", "badge"])
def test_adapter_and_head_learn_on_a_selection(
    make_lora: Callable[..., PeftModel], make_trainer: MakeTrainer, text_encoder: TextEncoder, strategy: str
) -> None:
    model = make_lora()
    before = {name: values.detach().clone() for name, values in model.named_parameters()}
    trainer = make_trainer(model, [CEACallback(text_encoder)], strategy=strategy, **STEPS)
    trainer.train()
    assert [len(selection) for selection in trainer.selection_history] == [20, 20]
    assert all(record.info["cea_relative_shift"] > 0 for record in trainer.loop_records)
    moved = {name for name, values in model.named_parameters() if not torch.equal(values, before[name])}
    learning = {name for name, values in model.named_parameters() if values.requires_grad}
    assert moved == learning
    assert all("lora_" in name or "modules_to_save" in name for name in learning)


def test_cea_moves_what_the_learning_head_takes(
    make_lora: Callable[..., PeftModel], make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> None:
    def trained(step_size: float) -> torch.Tensor:
        trainer = make_trainer(make_lora(), [CEACallback(text_encoder, step_size=step_size)], strategy="random")
        trainer.train()
        return trainer.model.base_model.model.classifier.modules_to_save["default"].weight

    assert not torch.allclose(trained(0.0), trained(0.5))


@pytest.mark.parametrize("option", [{"rescore": "proxy"}, {"strategy": "alfa_mix"}], ids=str)
def test_the_head_that_peft_has_copied_is_still_linear(
    make_lora: Callable[..., PeftModel], make_trainer: MakeTrainer, option: dict[str, Any]
) -> None:
    model = make_lora()
    head = model.base_model.model.classifier
    original = head.original_module.weight.clone()
    trainer = make_trainer(model, **option)
    trainer.train()
    assert len(trainer.selection_history) == 2
    assert torch.equal(head.original_module.weight, original)


def test_a_checkpoint_is_an_adapter_that_loads_into_the_model(
    make_lora: Callable[..., PeftModel],
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    validation: Dataset,
    tmp_path: Path,
) -> None:
    model = make_lora()
    trainer = make_trainer(model, **STEPS)
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-8"):
        names = {path.name for path in folder.iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json"} <= names
        assert not any(name.endswith(".bin") or name == "model.safetensors" for name in names)
        tensors = load_file(folder / "adapter_model.safetensors")
        assert all("lora_" in name or "classifier" in name for name in tensors)
        loaded = PeftModel.from_pretrained(make_vit(0), folder)
        torch.testing.assert_close(logits_of(loaded, validation), logits_of(model, validation), rtol=0, atol=0)
    # The weights that stayed were not enough.
    assert not torch.allclose(logits_of(make_vit(0), validation), logits_of(model, validation), atol=1e-3)


def test_a_resumed_run_is_the_uninterrupted_one(
    make_lora: Callable[..., PeftModel], make_trainer: MakeTrainer, text_encoder: TextEncoder, tmp_path: Path
) -> None:
    def trainer(seed: int, folder: str) -> VeCAFTrainer:
        return make_trainer(make_lora(seed), [CEACallback(text_encoder)], output_dir=str(tmp_path / folder), **STEPS)

    whole = trainer(0, "whole")
    whole.train()
    resumed = trainer(1, "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert_same_run(whole, resumed)
    assert len(losses(whole, "loss")) == 8


def test_the_best_adapter_is_loaded_at_the_end(
    make_lora: Callable[..., PeftModel],
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    validation: Dataset,
    tmp_path: Path,
) -> None:
    scores = iter([1.0, 0.0, 0.0])
    model = make_lora()
    trainer = make_trainer(
        model,
        trainer={"compute_metrics": lambda prediction: {"score": next(scores)}},
        learning_rate=0.01,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    trainer.train()
    best, last = (
        logits_of(PeftModel.from_pretrained(make_vit(0), tmp_path / "run" / f"checkpoint-{step}"), validation)
        for step in (4, 8)
    )
    assert torch.equal(logits_of(model, validation), best)
    assert not torch.equal(best, last)


def test_the_card_says_how_to_load_the_adapter(
    make_lora: Callable[..., PeftModel],
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    validation: Dataset,
    tmp_path: Path,
) -> None:
    model = make_lora()
    trainer = make_trainer(model)
    trainer.train()
    trainer.save_model()
    # PEFT has written a card of its own by now.
    trainer.create_model_card()
    card = ModelCard(with_repository((tmp_path / "run" / "README.md").read_text(), str(tmp_path / "run")))
    assert card.data.library_name == "peft" and "vecaf" in card.data.tags
    (code,) = re.findall(r"## How to load it.*?```python\n(.*?)```", card.text, re.DOTALL)
    scope = {"model": make_vit(0)}
    exec(code, scope)
    assert torch.equal(logits_of(scope["model"], validation), logits_of(model, validation))
