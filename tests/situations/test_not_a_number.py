"""A training that comes to NaN ends with an error that says so, and its last good checkpoint stays the last; weights in
half precision, its usual cause, are told when the trainer is made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback

from vecaf_hf import VeCAFTrainer
from vecaf_hf.checkpoint.files import find_checkpoint

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
RUN = {"strategy": "random", "max_steps": 12, "num_loops": 3, "optim": "adamw_torch"}


class Spoils(TrainerCallback):
    """The weights, after this step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            kwargs["model"].classifier.weight.data.mul_(torch.inf)


@pytest.mark.parametrize(("dtype", "told"), [("float16", "NaN after a step"), ("bfloat16", "do nothing")])
def test_half_precision_is_told(
    make_vit: MakeModel, make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, dtype: str, told: str
) -> None:
    caplog.set_level(logging.WARNING)
    model = make_vit()
    make_trainer(model, strategy="random")
    assert "trained in" not in caplog.text
    # What is frozen may be as it is.
    for parameter in model.vit.parameters():
        parameter.requires_grad_(False)
    model.vit.to(getattr(torch, dtype))
    make_trainer(model, strategy="random")
    assert "trained in" not in caplog.text
    make_trainer(make_vit().to(getattr(torch, dtype)), strategy="random")
    assert caplog.text.count(f"trained in {dtype}") == 1 and told in caplog.text


def test_a_float16_model_does_not_end_as_a_perfect_fit(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    plain = make_trainer(make_vit().to(torch.float16), **RUN)
    trainer = make_trainer(make_vit().to(torch.float16), **RUN, save_strategy="epoch")
    with pytest.raises(FloatingPointError, match=r"after 4 steps .* parameters are not finite, .*weights in float32"):
        trainer.train()
    assert not list(Path(str(trainer.args.output_dir)).glob("checkpoint-*"))
    assert [log["loss"] for log in trainer.state.log_history if "loss" in log][1:] == [0.0] * 3
    assert isinstance(plain, Trainer)


@pytest.mark.parametrize(("spoilt", "last"), [(4, "checkpoint-2"), (5, "checkpoint-4"), (7, "checkpoint-6")])
def test_the_last_good_checkpoint_stays_the_last(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, spoilt: int, last: str
) -> None:
    saves = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    with pytest.raises(FloatingPointError, match="parameters are not finite"):
        make_trainer(make_vit(), [Spoils(spoilt)], **RUN, **saves).train()
    assert Path(str(find_checkpoint(True, str(tmp_path / "run")))).name == last
    make_trainer(make_vit(), **RUN, **saves).train(resume_from_checkpoint=True)


def test_a_loop_without_a_finite_loss_ends_the_run_and_a_single_one_does_not(
    make_vit: MakeModel, make_trainer: MakeTrainer
) -> None:
    lost: list[int] = []
    trainer: Any = None

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        found = torch.nn.functional.cross_entropy(outputs["logits"], labels)
        # Without a gradient: the weights stay finite.
        return found.detach() * torch.inf + 0 * found if trainer.state.global_step in lost else found

    for steps, ends in (([1, 2, 5], True), ([4, 5, 6, 7], False)):
        lost[:] = steps
        trainer = make_trainer(make_vit(), trainer={"compute_loss_func": loss}, **RUN)
        if ends:
            trainer.train()
        else:
            with pytest.raises(FloatingPointError, match="no loss of the loop that ends after 8 steps"):
                trainer.train()
