"""A subclass's own `compute_loss` sees the batch that Trainer would show it; losses are recorded and CEA acts all the
same, or the run is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.data.indexed import POOL_INDEX

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
WEIGHTS = torch.linspace(0.5, 1.5, 10)


class Weighted(VeCAFTrainer):
    """As in the documentation of Trainer."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        assert set(inputs) == {"pixel_values", "labels"}
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = cross_entropy(outputs.logits, labels, WEIGHTS)
        return (loss, outputs) if return_outputs else loss


class Regularised(VeCAFTrainer):
    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        assert POOL_INDEX not in inputs
        loss, outputs = super().compute_loss(model, inputs, True, kwargs.get("num_items_in_batch"))
        loss = loss + 1e-3 * outputs.logits.square().mean()
        return (loss, outputs) if kwargs.get("return_outputs") else loss


class Tupled(VeCAFTrainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, *outputs = model(**inputs, return_dict=False)
        return (loss, {"logits": outputs[0]}) if return_outputs else loss


class Around(VeCAFTrainer):
    """Not by the model's forward."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        features = model.vit(inputs["pixel_values"]).last_hidden_state[:, 0]
        return cross_entropy(features[:, :10], inputs["labels"])


class Half(VeCAFTrainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        return model(**{name: values[:4] for name, values in inputs.items()}).loss


def closed(model: PreTrainedModel) -> PreTrainedModel:
    """It takes no keyword that it does not know."""

    class Closed(type(model)):  # type: ignore[misc]
        def forward(self, pixel_values: Any, labels: Any = None, return_dict: bool = True) -> Any:
            return super().forward(pixel_values, labels=labels, return_dict=return_dict)

    model.__class__ = Closed
    return model


@pytest.mark.parametrize("kind", [Weighted, Regularised, Tupled])
def test_losses_of_training_are_recorded(
    make: Callable[..., VeCAFTrainer],
    make_vit: MakeModel,
    check_recorded: Callable[[VeCAFTrainer], None],
    kind: type[VeCAFTrainer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = make(kind, closed(make_vit()), strategy="trimmed", learning_rate=0.0)
    assert "pass sample_loss_func" in caplog.text
    check_recorded(trainer)
    assert not trainer.model._forward_hooks


@pytest.mark.parametrize("kind", [Weighted, Regularised])
def test_cea_moves(
    make: Callable[..., VeCAFTrainer],
    make_vit: MakeModel,
    text_encoder: TextEncoder,
    kind: type[VeCAFTrainer],
) -> None:
    weights = []
    for callbacks in ([], [CEACallback(text_encoder)]):
        trainer = make(kind, make_vit(), callbacks, strategy="balanced", max_steps=2)
        trainer.train()
        weights.append(trainer.model.classifier.weight.detach().clone())
    assert not torch.allclose(*weights)


@pytest.mark.parametrize(
    ("kind", "strategy", "message"),
    [
        (Around, "trimmed", "passes None samples of a batch of 8 through the model's forward"),
        (Half, "trimmed", "passes 4 samples of a batch of 8"),
        (Weighted, "infobatch", r"does not call super\(\).compute_loss"),
        (Weighted, "learn_loss", r"does not call super\(\).compute_loss"),
    ],
)
def test_what_cannot_be_seen_is_refused_at_the_first_step(
    make: Callable[..., VeCAFTrainer], make_vit: MakeModel, kind: type[VeCAFTrainer], strategy: str, message: str
) -> None:
    trainer = make(kind, make_vit(), strategy=strategy)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("kind", [Around, Half])
def test_cea_refuses_what_it_cannot_move(
    make: Callable[..., VeCAFTrainer], make_vit: MakeModel, text_encoder: TextEncoder, kind: type[VeCAFTrainer]
) -> None:
    trainer = make(kind, make_vit(), [CEACallback(text_encoder)], strategy="balanced")
    with pytest.raises(ValueError, match="compute_loss must call the model"):
        trainer.train()


@pytest.mark.parametrize("kind", [Around, Half])
def test_without_either_it_trains(make: Callable[..., VeCAFTrainer], make_vit: MakeModel, kind: Any) -> None:
    make(kind, make_vit(), strategy="balanced").train()
