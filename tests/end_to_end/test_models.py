"""Every kind of vision model, built from a small config, through two loops; and the models that are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageClassification, PreTrainedModel, set_seed

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.scoring.head import find_head

MakeTrainer = Callable[..., VeCAFTrainer]

WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}

TRANSFORMERS: dict[str, Callable[..., PreTrainedModel]] = {
    "vit": lambda **c: tf.ViTForImageClassification(tf.ViTConfig(image_size=32, patch_size=16, **WIDTHS, **c)),
    "dinov2": lambda **c: tf.Dinov2ForImageClassification(
        tf.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, **c)
    ),
    "swin": lambda **c: tf.SwinForImageClassification(
        tf.SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, **c)
    ),
    "convnext": lambda **c: tf.ConvNextForImageClassification(tf.ConvNextConfig(num_stages=2, **STAGES, **c)),
    "beit": lambda **c: tf.BeitForImageClassification(
        tf.BeitConfig(image_size=32, patch_size=16, out_features=None, **WIDTHS, **c)
    ),
    "resnet": lambda **c: tf.ResNetForImageClassification(
        tf.ResNetConfig(embedding_size=8, layer_type="basic", **STAGES, **c)
    ),
}

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "deit": ("deit_tiny_patch16_224", {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2}),
    "xcit": ("xcit_nano_12_p16_224", {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
    ),
    "efficientnet": ("efficientnet_lite0", {}),
}


def timm_model(architecture: str, model_args: dict[str, Any], **labelled: Any) -> PreTrainedModel:
    config = tf.TimmWrapperConfig(architecture=architecture, model_args=model_args, **labelled)
    return AutoModelForImageClassification.from_config(config)


MODELS: dict[str, Callable[..., PreTrainedModel]] = TRANSFORMERS | {
    f"timm-{name}": lambda architecture=architecture, model_args=model_args, **c: timm_model(
        architecture, model_args, **c
    )
    for name, (architecture, model_args) in TIMM.items()
}


@pytest.mark.parametrize("name", MODELS)
def test_two_loops_and_a_checkpoint(
    make_trainer: MakeTrainer,
    train: Any,
    text_encoder: TextEncoder,
    labelled: dict[str, Any],
    tmp_path: Any,
    name: str,
) -> None:
    set_seed(0)
    model = MODELS[name](**labelled)
    before = {key: values.clone() for key, values in model.state_dict().items()}
    trainer = make_trainer(
        model,
        [CEACallback(text_encoder, "a photo of a {label}")],
        pool=train.select(range(60)),
        max_steps=4,
        selection_budget=12,
        save_strategy="epoch",
        eval_strategy="epoch",
    )
    trainer.train()

    losses = [log[key] for log in trainer.state.log_history for key in ("loss", "eval_loss") if key in log]
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    assert len(trainer.selection_history) == 2
    for selection in trainer.selection_history:
        chosen = selection.indices.tolist()
        assert len(set(chosen)) == 12
        assert set(chosen) <= set(range(60))
    assert all(record.info["cea_relative_shift"] > 0 for record in trainer.loop_records)
    frozen = [key for key, values in model.named_parameters() if torch.equal(values, before[key])]
    assert len(frozen) < len(list(model.parameters())) / 2

    restored = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint-4")
    assert type(restored) is type(model)
    trained = model.state_dict()
    for key, values in restored.state_dict().items():
        assert torch.equal(values, trained[key]), key


# --- Refused ---


class Unusual(nn.Module):
    """A model whose head has a name of its own, and is not the last thing that its output passes."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Tanh())
        self.stages = nn.ModuleDict({"last": nn.Linear(8, 10)})
        self.scale = scale

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.stages["last"](self.body(pixel_values)) * self.scale
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("name", [None, "stages.last"])
def test_a_head_of_a_name_of_its_own(make_trainer: MakeTrainer, text_encoder: TextEncoder, name: str | None) -> None:
    model = Unusual()
    captions = ["some clothing"] * 120
    trainer = make_trainer(model, [CEACallback(text_encoder, captions)], head=name)
    trainer.train()
    assert trainer.loop_records[1].info["cea_relative_shift"] > 0
    assert find_head(model, "stages.last") is model.stages["last"]


def test_a_head_of_a_wrong_name_or_place_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match=r"head is 'stages.first', and Unusual has no such module"):
        make_trainer(Unusual(), head="stages.first")
    with pytest.raises(ValueError, match=r"does not turn the embedding into the model's logits"):
        make_trainer(Unusual(), head="body.2").train()
    # A probe in a head's place makes the logits alone.
    with pytest.raises(ValueError, match=r"something follows it"):
        make_trainer(Unusual(scale=3.0), head="stages.last", rescore="proxy").train()


def test_a_feature_map_into_the_head_is_refused(make_trainer: MakeTrainer) -> None:
    class Mapped(Unusual):
        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.stages["last"](pixel_values[:, :, :, :8]).mean(dim=(1, 2))
            return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}

    with pytest.raises(ValueError, match=r"\[\d+, 3, 32, 8\] enters the head, not one embedding per sample"):
        make_trainer(Mapped(), head="stages.last").train()


def test_another_objective_than_the_models_own_is_asked_for(make_trainer: MakeTrainer) -> None:
    class Focal(Unusual):
        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            outputs = super().forward(pixel_values, labels)
            return {**outputs, "loss": outputs["loss"] ** 2} if labels is not None else outputs

    with pytest.raises(ValueError, match="sample_loss_func"):
        make_trainer(Focal(), head="stages.last").train()

    def squared(outputs: Any, labels: Tensor) -> Tensor:
        return cross_entropy(outputs["logits"], labels, reduction="none") ** 2

    make_trainer(Focal(), head="stages.last", trainer={"sample_loss_func": squared}).train()
