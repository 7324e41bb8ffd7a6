"""`bf16_full_eval` and `fp16_full_eval` are of evaluations alone: what is trained and saved keeps its precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from every_case import every_case
from safetensors.torch import load_file
from transformers import PreTrainedModel

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


@every_case("option", ["bf16_full_eval", "fp16_full_eval"])
def test_an_evaluation_leaves_the_model_as_it_was(option: str, make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    model = make_vit()
    model.register_buffer("counted", torch.full((3,), 1 / 3))
    before, seen = {name: tensor.clone() for name, tensor in model.state_dict().items()}, set()
    model.register_forward_pre_hook(lambda module, inputs: seen.add(next(module.parameters()).dtype))
    make_trainer(model, **{option: True}).evaluate()
    # The option acts.
    assert seen == {torch.bfloat16 if option == "bf16_full_eval" else torch.float16}
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name]), name


def test_an_evaluation_that_fails_leaves_it_so_too(make_vit: MakeModel, make_trainer: MakeTrainer) -> None:
    model = make_vit()
    tied = model.vit.layernorm.weight
    model.register_parameter("tied", tied)

    def fail(prediction: object) -> dict[str, float]:
        raise OSError("no disk")

    trainer = make_trainer(model, bf16_full_eval=True, trainer={"compute_metrics": fail})
    with pytest.raises(OSError, match="no disk"):
        trainer.evaluate()
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32} and model.tied is tied


def test_what_is_trained_and_saved_is_what_it_would_be_without_it(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    saved = []
    for evaluates in (False, True):
        trainer = make_trainer(make_vit(), bf16_full_eval=evaluates)
        if evaluates:
            trainer.evaluate()
        trainer.train()
        if evaluates:
            trainer.evaluate()
        trainer.save_model(str(tmp_path / f"saved_{evaluates}"))
        saved.append(load_file(tmp_path / f"saved_{evaluates}" / "model.safetensors"))
    plain, evaluated = saved
    assert plain.keys() == evaluated.keys() and {tensor.dtype for tensor in evaluated.values()} == {torch.float32}
    assert all(torch.equal(evaluated[name], tensor) for name, tensor in plain.items())
