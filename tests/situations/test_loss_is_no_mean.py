"""A loss that is no mean of its samples' losses trains, resumes and trains twice; it is refused only where the run
goes by samples' losses. A weighted mean is given as a loss and a weight per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Trainer, ViTForImageClassification

from vecaf_hf import VeCAFTrainer
from vecaf_hf.selection import STRATEGIES

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
CLASS_WEIGHTS = torch.linspace(0.2, 2, 10)


def mined(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
    """Of the four hardest samples: fails on a single one."""
    return cross_entropy(outputs.logits, labels, reduction="none").topk(4).values.mean()


def weighted(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
    return cross_entropy(outputs.logits, labels, CLASS_WEIGHTS)


def auxiliary(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
    return cross_entropy(outputs.logits, labels) + 0.1 * outputs.logits.square().mean()


def in_forward(model: PreTrainedModel, loss: Callable[..., Tensor]) -> PreTrainedModel:
    """The model, its own loss exchanged."""

    class Own(ViTForImageClassification):
        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:  # type: ignore[override]
            outputs = super().forward(pixel_values)
            outputs.loss = None if labels is None else loss(outputs, labels)
            return outputs

    model.__class__ = Own
    return model


@pytest.mark.parametrize("loss", [mined, weighted, auxiliary])
@pytest.mark.parametrize("given", ["forward", "compute_loss_func"])
def test_it_trains_resumes_and_trains_twice(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, loss: Callable[..., Tensor], given: str
) -> None:
    def make() -> VeCAFTrainer:
        own = {"compute_loss_func": loss} if given == "compute_loss_func" else {}
        model = make_vit() if own else in_forward(make_vit(), loss)
        options = {"strategy": "balanced", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
        return make_trainer(model, trainer=own, output_dir=str(tmp_path / "run"), learning_rate=0.02, **options)

    whole = make()
    whole.train()
    resumed = make()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name
    whole.train()


@pytest.mark.parametrize("loss", [weighted, auxiliary])
@pytest.mark.parametrize("strategy", ["ods", "trimmed", "infobatch"])
def test_where_losses_are_read_it_is_refused_at_once(
    make_vit: MakeModel, make_trainer: MakeTrainer, loss: Callable[..., Tensor], strategy: str
) -> None:
    for seed in range(3):
        trainer = make_trainer(in_forward(make_vit(seed), loss), strategy=strategy)
        with pytest.raises(ValueError, match=r"is not the mean.*sample_weight_func"):
            trainer.train()
        assert trainer.state.global_step == 0


def test_a_strategy_that_reads_embeddings_alone_asks_for_no_mean_unless_it_weighs(
    make_vit: MakeModel, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer(in_forward(make_vit(), weighted), strategy="activeft").train()
    monkeypatch.setitem(STRATEGIES, "activeft", replace(STRATEGIES["activeft"], weighs=True))
    trainer = make_trainer(in_forward(make_vit(), weighted), strategy="activeft")
    with pytest.raises(ValueError, match="is not the mean"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_what_was_accepted_is_not_asked_again(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    # All losses are the same as long as the head is zero: no check could tell.
    model = in_forward(make_vit(), weighted)
    for parameter in model.classifier.parameters():
        parameter.data.zero_()
    trainer = make_trainer(model, strategy="ods", learning_rate=0.02)
    trainer.train()
    trainer.train()


def step(trainer: Trainer) -> dict[str, float]:
    trainer.train()
    return next(log for log in trainer.state.log_history if "grad_norm" in log)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_weighted_mean_is_that_of_the_whole_step(
    make_vit: MakeModel, make_trainer: MakeTrainer, accumulation: int, train: Any
) -> None:
    sizes = {"per_device_train_batch_size": 32 // accumulation, "gradient_accumulation_steps": accumulation}
    run = {"max_steps": 1, "num_loops": 1, "selection_budget": 32, "weight_decay": 0.0, **sizes}
    weigh = {"sample_weight_func": lambda labels: CLASS_WEIGHTS[labels]}
    trainer = make_trainer(make_vit(), pool=train.select(range(32)), trainer=weigh, strategy="ods", **run)
    model = make_vit().train()
    found = step(trainer)
    batch = trainer.data_collator([train[index] for index in range(32)])
    expected = weighted(model(batch["pixel_values"]), batch["labels"])
    expected.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert found["loss"] == pytest.approx(float(expected.detach()), rel=1e-3)
    assert found["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    evaluated = trainer.evaluate(train.select(range(32)))["eval_loss"]
    with torch.no_grad():
        now = weighted(trainer.model.eval()(batch["pixel_values"]), batch["labels"])
    assert evaluated == pytest.approx(float(now), rel=1e-3)


@pytest.mark.parametrize("weights", [torch.ones(3), 1.0, -torch.ones(16)])
def test_weights_that_are_none(make_vit: MakeModel, make_trainer: MakeTrainer, weights: Any) -> None:
    trainer = make_trainer(make_vit(), trainer={"sample_weight_func": lambda labels: weights}, strategy="ods")
    with pytest.raises(ValueError, match="sample_weight_func must return"):
        trainer.train()


def test_two_that_exclude_each_other(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    given = {"sample_weight_func": lambda labels: labels, "compute_loss_func": partial(weighted)}
    with pytest.raises(ValueError, match="sample_weight_func and compute_loss_func are both given"):
        make_trainer(make_vit(), trainer=given)
