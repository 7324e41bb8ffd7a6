"""torch.compile: the compiled model trains, the plain one is scored and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, ViTForImageClassification

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
# Traces as inductor does, without its minutes of code generation.
COMPILED = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
SAVED = {"save_strategy": "steps", "save_steps": 3, "learning_rate": 0.01, "eval_strategy": "epoch"}


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def test_a_compiled_run_is_the_plain_run(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder, tmp_path: Path
) -> None:
    def trainer(folder: str, step_size: float, **options: object) -> VeCAFTrainer:
        cea = CEACallback(text_encoder, step_size=step_size)
        made = make_trainer(make_vit(), [cea], output_dir=str(tmp_path / folder), **SAVED, **options)
        made.train()
        return made

    compiled = trainer("compiled", 0.3, **COMPILED)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    plain, unmoved = trainer("plain", 0.3), trainer("unmoved", 0.0)
    for mine, yours in zip(compiled.selection_history, plain.selection_history, strict=True):
        assert torch.equal(mine.indices, yours.indices)
    head, expected, other = (
        one.accelerator.unwrap_model(one.model).classifier.weight for one in (compiled, plain, unmoved)
    )
    torch.testing.assert_close(head, expected, rtol=1e-4, atol=1e-5)
    # What CEA does is more than that.
    assert not torch.allclose(other, expected, rtol=1e-3, atol=1e-3)


def test_saved_keys_are_the_plain_models_and_a_run_resumes_from_them(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole = make_trainer(make_vit(), output_dir=str(tmp_path / "whole"), **SAVED, **COMPILED)
    whole.train()
    whole.save_model()
    make_vit().save_pretrained(tmp_path / "plain")
    names = load_file(tmp_path / "plain" / "model.safetensors").keys()
    for folder in (tmp_path / "whole", tmp_path / "whole" / "checkpoint-3"):
        assert load_file(folder / "model.safetensors").keys() == names
    loaded = ViTForImageClassification.from_pretrained(tmp_path / "whole").state_dict()
    weights = whole.accelerator.unwrap_model(whole.model).state_dict()
    assert all(torch.equal(values, loaded[name]) for name, values in weights.items())
    resumed = make_trainer(make_vit(1), output_dir=str(tmp_path / "resumed"), **SAVED, **COMPILED)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for name, values in resumed.accelerator.unwrap_model(resumed.model).state_dict().items():
        torch.testing.assert_close(values, weights[name], rtol=1e-5, atol=1e-6)
