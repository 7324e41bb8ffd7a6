"""The gradient of the same samples is the same, whatever the accumulation, the processes, weights and the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from every_case import every_case
from own_processes import in_two_processes
from tiny_classifiers import TINY, tiny_classifier
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from transformers import PreTrainedModel, Trainer

from vecaf_hf import VeCAFArguments, VeCAFTrainer
from vecaf_hf.scoring.divisor import heeds_divisor
from vecaf_hf.scoring.losses import classification_losses
from vecaf_hf.selection import Selection

MakeTrainer = Callable[..., VeCAFTrainer]
SAMPLES = 16


def images(kind: str = "classes") -> Dataset:
    generator = torch.Generator().manual_seed(0)
    labels: Any = torch.arange(SAMPLES) % 10
    if kind == "soft":
        labels = one_hot(labels, 10).float()
    pixels = torch.randn(SAMPLES, 3, 32, 32, generator=generator)
    return Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": labels.tolist()}).with_format("torch")


def in_evaluation(model: PreTrainedModel) -> PreTrainedModel:
    """Always: statistics of a batch and dropout would differ with the batch."""
    model.eval()
    model.train = lambda mode=True: model  # type: ignore[assignment,method-assign]
    return model


def options(folder: Path, accumulation: int, world: int = 1, **others: Any) -> VeCAFArguments:
    given: dict[str, Any] = {
        "strategy": "full",
        "num_loops": 1,
        "max_steps": 1,
        "per_device_train_batch_size": SAMPLES // accumulation // world,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 0.0,
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return VeCAFArguments(output_dir=str(folder), **{**given, **others})


def logged(trainer: Trainer) -> tuple[float, float]:
    trainer.train()
    first = next(log for log in trainer.state.log_history if "grad_norm" in log)
    return first["loss"], first["grad_norm"]


def of_all_at_once(model: PreTrainedModel, pool: Dataset) -> tuple[float, float]:
    batch = pool[:]
    loss = classification_losses(model(pixel_values=batch["pixel_values"]), batch["labels"]).mean()
    gradients = torch.autograd.grad(
        loss, [each for each in model.parameters() if each.requires_grad], allow_unused=True
    )
    return loss.item(), float(torch.stack([each.norm() for each in gradients if each is not None]).norm())


@pytest.fixture
def pools() -> dict[str, Dataset]:
    return {kind: images(kind) for kind in ("classes", "soft")}


@every_case("kind", ["vit", "swin", "convnext", "resnet", "siglip"])
def test_accumulated(kind: str, tmp_path: Path, pools: dict[str, Dataset]) -> None:
    accumulated(kind, tmp_path, pools)


@pytest.mark.sweep
@every_case("kind", TINY)
def test_every_image_classifier_accumulated(kind: str, tmp_path: Path, pools: dict[str, Dataset]) -> None:
    accumulated(kind, tmp_path, pools)


def accumulated(kind: str, tmp_path: Path, pools: dict[str, Dataset]) -> None:
    model = in_evaluation(tiny_classifier(kind))
    expected = of_all_at_once(model, pools["classes"])
    found = logged(VeCAFTrainer(model, options(tmp_path, 4), train_dataset=pools["classes"]))
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_soft_labels_accumulated(kind: str, tmp_path: Path, pools: dict[str, Dataset]) -> None:
    model = in_evaluation(tiny_classifier(kind))
    expected = of_all_at_once(model, pools["soft"])
    found = logged(VeCAFTrainer(model, options(tmp_path, 4), train_dataset=pools["soft"]))
    assert found == pytest.approx(expected, rel=2e-3)


def careless(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return cross_entropy(outputs.logits, labels)


def careful(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    if num_items_in_batch is None:
        return cross_entropy(outputs.logits, labels)
    return cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


class Overridden(VeCAFTrainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = model(pixel_values=inputs["pixel_values"])
        loss = cross_entropy(outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def ones(candidates: Any, budget: int, options: Any, generator: torch.Generator) -> Selection:
    return Selection(candidates.indices, torch.ones(len(candidates)))


WAYS: dict[str, dict[str, Any]] = {
    "compute_loss_func that does not divide": {"trainer": {"compute_loss_func": careless}},
    "compute_loss_func that divides": {"trainer": {"compute_loss_func": careful}},
    "sample_loss_func": {"trainer": {"sample_loss_func": classification_losses}},
    "sample_weight_func": {"trainer": {"sample_weight_func": lambda labels: torch.full((len(labels),), 3.0)}},
    "compute_loss overridden": {"type": Overridden},
    "weights": {"strategy": ones},
    "label smoothing": {"label_smoothing_factor": 1e-6},
    "a learner": {"strategy": "learn_loss"},
}


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@every_case("way", WAYS)
def test_given_in_any_way(kind: str, way: str, tmp_path: Path, pools: dict[str, Dataset]) -> None:
    given = dict(WAYS[way])
    make, others = given.pop("type", VeCAFTrainer), given.pop("trainer", {})
    if way == "a learner" and kind == "resnet":
        return
    model = in_evaluation(tiny_classifier(kind))
    expected = of_all_at_once(model, pools["classes"])
    given = {"selection_budget": SAMPLES, **given}
    found = logged(make(model, options(tmp_path, 4, **given), train_dataset=pools["classes"], **others))
    # What a learner learns of its own has a gradient too.
    assert found[0] == pytest.approx(expected[0], rel=2e-3)
    assert way == "a learner" or found[1] == pytest.approx(expected[1], rel=2e-3)


@pytest.mark.parametrize("strategy", ["full", ones])
def test_an_option_keeps_trainers_scale_and_it_is_told_once(
    strategy: Any, tmp_path: Path, pools: dict[str, Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    def make(kind: str, **others: Any) -> VeCAFTrainer:
        model = in_evaluation(tiny_classifier(kind))
        given = options(tmp_path, 4, strategy=strategy, selection_budget=SAMPLES, **others)
        return VeCAFTrainer(model, given, train_dataset=pools["classes"])

    plain = Trainer(in_evaluation(tiny_classifier("resnet")), options(tmp_path, 4), train_dataset=pools["classes"])
    expected = logged(plain)
    assert logged(make("resnet", trainer_loss_scale=True)) == pytest.approx(expected, rel=2e-3)
    assert "would multiply its gradient" not in caplog.text
    found = logged(make("resnet"))
    assert found == pytest.approx((expected[0] / 4, expected[1] / 4), rel=2e-3)
    assert caplog.text.count("would multiply its gradient by 4") == (strategy == "full")
    logged(make("vit"))
    assert caplog.text.count("would multiply its gradient") == (strategy == "full")


def shared(folder: Path) -> None:
    """In each of two processes."""
    rank, pool = int(os.environ["RANK"]), images()
    for kind in ("vit", "resnet", "swinv2"):
        for accumulation in (1, 2):
            model = in_evaluation(tiny_classifier(kind))
            expected = of_all_at_once(model, pool)
            trainer = VeCAFTrainer(
                model,
                options(folder / str(rank), accumulation, world=2),
                train_dataset=pool,
                eval_dataset=pool,
            )
            assert trainer.args.world_size == 2
            found = logged(trainer)
            assert found == pytest.approx(expected, rel=2e-3), (kind, accumulation)
            assert trainer.evaluate()["eval_loss"] == pytest.approx(expected[0], rel=2e-3)


def test_two_processes(tmp_path: Path) -> None:
    in_two_processes(shared, tmp_path)


def in_part(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return careful(outputs, labels, num_items_in_batch) + 0.1 * outputs.logits.square().mean()


def counting(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch.float()


@every_case("loss", [in_part, counting])
def test_what_cannot_be_told_is_left_to_trainer(loss: Any, tmp_path: Path, pools: dict[str, Dataset]) -> None:
    found = []
    for make in (Trainer, VeCAFTrainer):
        model = in_evaluation(tiny_classifier("vit"))
        found.append(logged(make(model, options(tmp_path, 4), train_dataset=pools["classes"], compute_loss_func=loss)))
    assert found[0] == pytest.approx(found[1], rel=2e-3)


def test_to_find_it_out_leaves_each_module_in_its_mode() -> None:
    """What is frozen in evaluation stays there."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].eval()

    def divided(number: Tensor) -> Tensor:
        return (model(torch.eye(2)).exp().sum() / number).squeeze()

    assert heeds_divisor(model, divided, torch.tensor(4), Accelerator(cpu=True))
    assert [module.training for module in model.modules()] == [True, True, False]
