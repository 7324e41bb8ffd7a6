"""Strategies with networks that learn beside the model, in a run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from vecaf_hf import CEACallback, VeCAFTrainer
from vecaf_hf.learners import learn_loss, ta_vaal
from vecaf_hf.selection import STRATEGIES

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]

BUDGET = 6
LEARNING = {"learn_loss", "ta_vaal"}
learning = pytest.mark.parametrize("strategy", sorted(LEARNING))
LEVEL_SIZES = [16, 16]  # of the ViT


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published VAE is for a GPU."""
    monkeypatch.setattr(ta_vaal, "CHANNELS", (4, 4, 8, 8))


def test_which_strategies_learn() -> None:
    assert {name for name, strategy in STRATEGIES.items() if strategy.learns} == LEARNING


@learning
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_run_has_learned_the_same(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, tmp_path: Path, strategy: str, accumulated: int
) -> None:
    """Stopped in the middle of the second loop of three, the first that its scores have selected."""
    options = {
        "strategy": strategy,
        "selection_budget": BUDGET,
        "num_loops": 3,
        "max_steps": 9,
        "learning_rate": 0.01,
        "gradient_accumulation_steps": accumulated,
        "per_device_train_batch_size": 8 // accumulated,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    pool = train.select(range(80))
    whole = make_trainer(make_vit(hidden_dropout_prob=0.1), pool=pool, output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    resumed = make_trainer(make_vit(1, hidden_dropout_prob=0.1), pool=pool, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    for file in ("model.safetensors", "vecaf_state.safetensors"):
        one, other = (load_file(tmp_path / folder / "checkpoint-9" / file) for folder in ("whole", "run"))
        assert one.keys() == other.keys()
        for name, values in one.items():
            assert torch.equal(values, other[name]), name
    assert any(name.startswith("learner.") for name in one)
    assert whole.meter.work["auxiliary"].samples == resumed.meter.work["auxiliary"].samples
    assert whole.meter.work["auxiliary"].flops == resumed.meter.work["auxiliary"].flops


@learning
def test_the_first_selection_is_random_and_the_others_are_of_ten_times_the_budget(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, strategy: str
) -> None:
    options = {"pool": train.select(range(80)), "selection_budget": BUDGET, "num_loops": 3, "max_steps": 6}
    trainer = make_trainer(make_vit(), strategy=strategy, **options)
    trainer.train()
    by_chance = make_trainer(make_vit(), strategy="random", **options)
    by_chance.train()
    mine, others = trainer.selection_history, by_chance.selection_history
    assert torch.equal(mine[0].indices, others[0].indices)
    assert not torch.equal(mine[1].indices.sort().values, others[1].indices.sort().values)
    # ta_vaal looks at as many others as selected ones, at no more than the budget, where a selection follows.
    looked = 2 * 2 * BUDGET if strategy == "ta_vaal" else 0
    assert trainer.meter.work["score"].samples == 2 * 10 * BUDGET + looked


@learning
def test_what_is_learned_beside_the_model_leaves_no_trace(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, strategy: str
) -> None:
    models = {name: make_vit() for name in (strategy, "random")}
    saved = {}
    for name, model in models.items():
        options = {"save_strategy": "epoch", "eval_strategy": "epoch", "output_dir": str(tmp_path / name)}
        make_trainer(model, strategy=name, **options).train()
        saved[name] = load_file(tmp_path / name / "checkpoint-8" / "model.safetensors").keys()
    assert saved[strategy] == saved["random"]
    model = models[strategy]
    assert model.state_dict().keys() == models["random"].state_dict().keys()
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


@learning
def test_without_its_gradient_training_is_that_of_random(
    make_vit: MakeModel, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """To the bit, dropout too: nothing that a learner draws is missing there. Losses are logged as they are finetuned
    on."""
    monkeypatch.setattr(learn_loss, "WEIGHT", 0.0)

    def first_loop(name: str) -> tuple[dict[str, Tensor], list[float]]:
        states: list[dict[str, Tensor]] = []

        class Watch(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                states.append({key: values.clone() for key, values in model.state_dict().items()})

        model = make_vit(hidden_dropout_prob=0.1)
        trainer = make_trainer(model, [Watch()], strategy=name, learning_rate=0.01)
        trainer.train()
        return states[3], [log["loss"] for log in trainer.state.log_history if "loss" in log][:4]

    (one, losses), (other, others_losses) = first_loop(strategy), first_loop("random")
    assert losses == others_losses
    for name, values in one.items():
        assert torch.equal(values, other[name]), name


def test_the_gradient_of_what_is_learned_changes_the_model(
    make_vit: MakeModel, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights() -> Tensor:
        trainer = make_trainer(make_vit(), strategy="learn_loss", num_loops=1, max_steps=2)
        trainer.train()
        return trainer.model.vit.embeddings.patch_embeddings.projection.weight.detach()

    with_it = weights()
    monkeypatch.setattr(learn_loss, "WEIGHT", 0.0)
    assert not torch.equal(with_it, weights())


class Watched(TrainerCallback):
    """The predictor's bias after each step."""

    def __init__(self) -> None:
        self.biases: list[float] = []
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.biases.append(self.trainer.teaching.learner.predictor.together.bias.item())


@pytest.mark.parametrize("accumulated", [1, 2, 4])
@pytest.mark.parametrize("objective", ["own", "custom"])
def test_its_loss_is_a_mean_over_accumulated_batches(
    make_vit: MakeModel, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, accumulated: int, objective: str
) -> None:
    """A loss that is the mean prediction pulls at the last bias by 1, whoever divides by the accumulation."""
    monkeypatch.setattr(learn_loss, "ranking_loss", lambda predicted, losses: predicted.mean())

    def custom(outputs: Any, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits, labels, reduction="none")

    watched = Watched()
    trainer = watched.trainer = make_trainer(
        make_vit(),
        [watched],
        strategy="learn_loss",
        gradient_accumulation_steps=accumulated,
        per_device_train_batch_size=8 // accumulated,
        optim="sgd",
        learning_rate=0.01,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        trainer={"sample_loss_func": custom if objective == "custom" else None},
    )
    trainer.train()
    falls = [one - other for one, other in pairwise(watched.biases)]
    assert falls == pytest.approx([0.01] * 7, abs=1e-6)


@learning
@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_bf16(
    make_vit: MakeModel, make_trainer: MakeTrainer, strategy: str, max_grad_norm: float, tmp_path: Path
) -> None:
    trainer = make_trainer(
        make_vit(), strategy=strategy, bf16=True, save_strategy="epoch", max_grad_norm=max_grad_norm, num_loops=3
    )
    trainer.train()
    state = load_file(tmp_path / "run" / "checkpoint-8" / "vecaf_state.safetensors")
    learned = {name: values for name, values in state.items() if name.startswith("learner.predictor")}
    assert len(learned) == 6
    assert all(values.dtype == torch.float32 and values.isfinite().all() for values in learned.values())


def test_learn_losss_network_is_counted(make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset) -> None:
    trainer = make_trainer(
        make_vit(), pool=train.select(range(80)), strategy="learn_loss", selection_budget=BUDGET, max_steps=4
    )
    trainer.train()
    per_sample = 2 * 128 * (sum(LEVEL_SIZES) + len(LEVEL_SIZES))
    trained, scored = 4 * 8, 10 * BUDGET
    work = trainer.meter.work["auxiliary"]
    assert (work.samples, work.flops) == (trained + scored, (3 * trained + scored) * per_sample)
    assert work.seconds > 0


def test_ta_vaals_networks_are_counted(make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset) -> None:
    """Steps in the first of two loops, on as many selected samples as others; then the scores."""
    trainer = make_trainer(
        make_vit(), pool=train.select(range(80)), strategy="ta_vaal", selection_budget=BUDGET, max_steps=4
    )
    trainer.train()
    predicted = 4 * 8 + 2 * BUDGET + 10 * BUDGET
    stepped, scored = 2 * 2 * BUDGET, 10 * BUDGET
    work, flops = trainer.meter.work["auxiliary"], trainer.meter.forward_flops
    assert work.samples == predicted + stepped + scored
    # Encoder and decoder, forward and backward, and the encoder once more.
    assert 4 < flops["ta_vaal step"] / flops["ta_vaal scores"] < 12
    assert work.flops == (
        flops["predictor"] * (predicted + 2 * 4 * 8)
        + flops["ta_vaal step"] * stepped
        + flops["ta_vaal scores"] * scored
    )


@learning
def test_it_goes_with_cea_and_samples_that_cannot_be_loaded(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    train: Dataset,
    broken: Callable[[Dataset, set[int]], Dataset],
    text_encoder: Any,
    strategy: str,
) -> None:
    marked = {3, 40}
    trainer = make_trainer(
        make_vit(),
        [CEACallback(text_encoder)],
        pool=broken(train.select(range(80)), marked),
        strategy=strategy,
        selection_budget=30,
        num_loops=3,
        max_steps=6,
        on_bad_sample="skip",
    )
    trainer.train()
    assert set(trainer.skipped_samples) == marked
    assert all(not marked & set(selection.indices.tolist()) for selection in trainer.selection_history)


@learning
def test_what_cannot_learn_is_refused_at_construction(
    make_vit: MakeModel, make_trainer: MakeTrainer, strategy: str
) -> None:
    with pytest.raises(ValueError, match=rf"'{strategy}' learns from pairs.*per_device_train_batch_size"):
        make_trainer(make_vit(), strategy=strategy, per_device_train_batch_size=1)
    with pytest.raises(ValueError, match=rf"strategy '{strategy}' by what it learns: set single_run=False"):
        make_trainer(make_vit(), strategy=strategy, single_run=True)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))
            self.head = nn.Linear(8, 10)

    with pytest.raises(ValueError, match=r"Flat has no nn.ModuleList of blocks or stages"):
        make_trainer(Flat(), strategy=strategy)


def test_ta_vaal_refuses_what_is_no_image_before_training(make_trainer: MakeTrainer, train: Dataset) -> None:
    class OfVectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(3 * 32 * 32, 8), nn.Linear(8, 8)])
            self.head = nn.Linear(8, 10)

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            values = pixel_values
            for block in self.blocks:
                values = block(values)
            logits = self.head(values)
            loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
            return {**loss, "logits": logits}

    def flat(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {
            "pixel_values": torch.stack([sample["pixel_values"].flatten() for sample in samples]),
            "labels": torch.tensor([sample["labels"] for sample in samples]),
        }

    trainer = make_trainer(OfVectors(), strategy="ta_vaal", trainer={"data_collator": flat})
    with pytest.raises(ValueError, match=r"'ta_vaal' resizes images.*\[16, 3072\]: choose another strategy"):
        trainer.train()
    make_trainer(OfVectors(), strategy="learn_loss", trainer={"data_collator": flat}).train()
