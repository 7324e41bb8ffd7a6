"""A subclass's own `training_step` and `get_batch_samples` see the batches that Trainer would show them; one that goes
around ours is refused in a sentence, and leaves the folder to the run before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.checkpoint.files import latest_run

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
KEYS = {"pixel_values", "labels"}


class Plain(VeCAFTrainer):
    """As Trainer's, without a gradient penalty."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        assert set(inputs) == KEYS
        model.train()
        loss: Any = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
        self.accelerator.backward(loss)
        return loss.detach()


class Adversarial(VeCAFTrainer):
    """FGM: a second pass, with the weights moved; of a copy of the batch."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        assert set(inputs) == KEYS
        loss = super().training_step(model, {**inputs}, num_items_in_batch)
        moved = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
        self.accelerator.backward(moved)
        return loss


class Twice(VeCAFTrainer):
    """SAM: ours in both passes."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        super().training_step(model, inputs, num_items_in_batch)
        model.zero_grad()
        return super().training_step(model, inputs, num_items_in_batch)


class Turned(VeCAFTrainer):
    """The batches of a step in another order."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        assert all(set(batch) == KEYS for batch in batches)
        return batches[::-1], count


class Own(VeCAFTrainer):
    """Without ours."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        return [next(epoch_iterator) for _ in range(num_batches)], None


@pytest.mark.parametrize("kind", [Adversarial, Twice, Turned, Own])
def test_losses_of_training_are_those_of_their_samples(
    make: Callable[..., VeCAFTrainer],
    make_vit: MakeModel,
    check_recorded: Callable[[VeCAFTrainer], None],
    kind: type[VeCAFTrainer],
) -> None:
    trainer = make(kind, make_vit(), strategy="trimmed", learning_rate=0.0, gradient_accumulation_steps=2, max_steps=3)
    check_recorded(trainer)


@pytest.mark.parametrize("kind", [Adversarial, Twice])
def test_with_cea(
    make: Callable[..., VeCAFTrainer], make_vit: MakeModel, text_encoder: TextEncoder, kind: type[VeCAFTrainer]
) -> None:
    weights = []
    for callbacks in ([], [CEACallback(text_encoder)]):
        trainer = make(kind, make_vit(), callbacks, strategy="balanced", max_steps=2)
        trainer.train()
        weights.append(trainer.model.classifier.weight.detach().clone())
    assert not torch.allclose(*weights)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_one_that_goes_around_ours_is_refused(
    make: Callable[..., VeCAFTrainer], make_vit: MakeModel, tmp_path: Path, accumulated: int
) -> None:
    options = {"output_dir": str(tmp_path / "run"), "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    options["gradient_accumulation_steps"] = accumulated
    make(VeCAFTrainer, make_vit(), **options).train()
    before = latest_run(str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"training_step does not call super\(\).training_step"):
        make(Plain, make_vit(), **options).train()
    assert before is not None and latest_run(str(tmp_path / "run")) == before
