"""A strategy that reads no embedding looks for no head: whatever Trainer trains, trains. One that reads them finds the
head by what it makes, or says what it looked for and what to name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import transformers as tf
from datasets import Dataset
from every_case import every_case
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.nn.utils import parametrizations
from transformers import AutoModelForImageClassification, set_seed

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.scoring.entering import TwoHeads

MakeTrainer = Callable[..., VeCAFTrainer]
RUN: dict[str, Any] = {
    "max_steps": 2,
    "num_loops": 2,
    "selection_budget": 6,
    "selection_steps": 2,
    "learning_rate": 0.1,
}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TIMM_VIT = {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2}


class Net(nn.Module):
    """A user's own: what makes the logits is up to its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Tanh())
        self.out = nn.Linear(8, 10)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def logits(self, embeddings: Tensor) -> Tensor:
        return self.out(embeddings)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.logits(self.body(pixel_values))
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 8))

    def forward(self, features: Tensor) -> Tensor:
        return 10 * linear(normalize(features), normalize(self.weight))


class CosineHead(Net):
    def __init__(self) -> None:
        super().__init__()
        self.out = Cosine()

    def logits(self, embeddings: Tensor) -> Tensor:
        # By name, too.
        return self.out(features=embeddings)


class WeightsByHand(Net):
    def logits(self, embeddings: Tensor) -> Tensor:
        return self.scale * linear(normalize(embeddings), normalize(self.out.weight))


class Scaled(Net):
    def logits(self, embeddings: Tensor) -> Tensor:
        return self.scale * self.out(embeddings)


class Capped(Net):
    def logits(self, embeddings: Tensor) -> Tensor:
        return torch.tanh(self.scale * self.out(embeddings))


class Auxiliary(Net):
    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(8, 10)

    def logits(self, embeddings: Tensor) -> Tensor:
        self.auxiliary(embeddings)
        return self.out(embeddings)


class Twice(Net):
    def logits(self, embeddings: Tensor) -> Tensor:
        self.out(embeddings)
        return self.out(embeddings)


class Last(Net):
    def __init__(self) -> None:
        super().__init__()
        # PEFT takes any name that ends with it, as lora_dropout with "out".
        self.last, self.out = self.out, nn.Identity()  # type: ignore[assignment]

    def logits(self, embeddings: Tensor) -> Tensor:
        return self.last(embeddings)


class SpectralNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.out = parametrizations.spectral_norm(nn.Linear(8, 10))


class Nested(Net):
    """timm in a wrapper in a wrapper."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Identity()
        self.out = nn.Sequential(timm.create_model("vit_tiny_patch16_224", num_classes=10, **TIMM_VIT))


class Demanding(Net):
    """It cannot do without labels."""

    def forward(self, pixel_values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = self.logits(self.body(pixel_values))
        return cross_entropy(logits, labels), logits


class Keeping(Net):
    """It keeps what it has made once: nothing of inference mode may be left in it."""

    kept: Tensor | None = None

    def logits(self, embeddings: Tensor) -> Tensor:
        self.kept = torch.ones(8) if self.kept is None else self.kept
        return self.out(embeddings * self.kept)


def of_timm(name: str, **sizes: Any) -> Callable[[], nn.Module]:
    config = tf.TimmWrapperConfig(architecture=name, model_args=sizes, num_labels=10)
    return lambda: AutoModelForImageClassification.from_config(config)


def lora_on_the_head() -> nn.Module:
    model = tf.ViTForImageClassification(tf.ViTConfig(image_size=32, patch_size=16, num_labels=10, **VIT))
    return get_peft_model(model, LoraConfig(r=2, target_modules=["classifier"]))


def copy_beside_the_head() -> nn.Module:
    return get_peft_model(Last(), LoraConfig(r=2, target_modules=["body.1"], modules_to_save=["last"]))  # type: ignore[arg-type]


LEVIT = {"embed_dim": (16, 16, 16), "key_dim": 8, "depth": (1, 1, 1), "num_heads": (1, 1, 1)}
# Whether strategies that read embeddings train it too.
MODELS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "a cosine head": (CosineHead, True),
    "weights used by hand": (WeightsByHand, False),
    "a scale after the head": (Scaled, True),
    "what bends logits after the head": (Capped, False),
    "an auxiliary head": (Auxiliary, True),
    "a head called twice": (Twice, False),
    "spectral norm": (SpectralNorm, True),
    "nested timm": (Nested, True),
    "labels demanded": (Demanding, True),
    "kept tensors": (Keeping, True),
    "LoRA on the head": (lora_on_the_head, True),
    "PEFT's copy beside the head": (copy_beside_the_head, True),
    "distilled DeiT": (of_timm("deit_tiny_distilled_patch16_224", **TIMM_VIT), True),
    "distilled LeViT": (of_timm("levit_128s", img_size=32, **LEVIT), True),
    "CaiT": (of_timm("cait_xxs24_224", **TIMM_VIT), True),
    "SAM's ViT": (of_timm("samvit_base_patch16_224", neck_chans=16, **TIMM_VIT), True),
}


def two_loops(make_trainer: MakeTrainer, model: nn.Module, strategy: str, pool: Dataset) -> VeCAFTrainer:
    trainer = make_trainer(model, pool=pool, strategy=strategy, **RUN)
    trainer.train()
    assert trainer.state.global_step == 2 and [len(one) for one in trainer.selection_history] == [6, 6]
    return trainer


@every_case("strategy", ["balanced", "entropy", "ods"])
@every_case("name", MODELS)
def test_what_is_needed_is_found(make_trainer: MakeTrainer, train: Dataset, name: str, strategy: str) -> None:
    make, has_head = MODELS[name]
    set_seed(0)
    model, pool = make(), train.select(range(16))
    if has_head or strategy != "ods":
        two_loops(make_trainer, model, strategy, pool)
        return
    with pytest.raises(ValueError, match=r"'ods' reads the embedding.*looked for classifier.*name it.*'balanced'"):
        two_loops(make_trainer, model, strategy, pool)


class Clipped(Net):
    """A learned temperature under a head whose name tells, as of CLIP's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.out = self.out, nn.Identity()  # type: ignore[assignment]

    def logits(self, embeddings: Tensor) -> Tensor:
        return self.scale.exp() * self.classifier(embeddings)


def test_a_scale_that_is_learned_may_change(
    make_trainer: MakeTrainer, text_encoder: TextEncoder, train: Dataset
) -> None:
    set_seed(0)
    pool, captions = train.select(range(16)), [f"image {index}" for index in range(16)]
    trainer = make_trainer(Clipped(), [CEACallback(text_encoder, captions)], pool=pool, strategy="ods", **RUN)
    trainer.train()
    assert trainer.model.scale.item() != 3 and trainer.scorer.head is trainer.model.classifier
    for needs in ({"strategy": "alfa_mix"}, {"strategy": "ods", "rescore": "proxy"}):
        with pytest.raises(ValueError, match="does not turn the embedding into the model's logits"):
            make_trainer(Clipped(), pool=pool, **RUN | needs).train()


def test_what_follows_a_head_can_be_made_part_of_it(make_trainer: MakeTrainer, train: Dataset) -> None:
    """The sentence's advice leads to a run."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(8, 10), nn.Parameter(torch.tensor(3.0))

        def forward(self, embeddings: Tensor) -> Tensor:
            return self.scale * self.layer(embeddings)

    class Advised(Net):
        def __init__(self) -> None:
            super().__init__()
            self.out = Whole()

    set_seed(0)
    make_trainer(Advised(), pool=train.select(range(16)), strategy="ods", head="out", **RUN).train()


def test_two_embeddings_side_by_side(make_trainer: MakeTrainer, text_encoder: TextEncoder, train: Dataset) -> None:
    pool = train.select(range(16))
    make, _ = MODELS["distilled DeiT"]
    set_seed(0)
    trainer = two_loops(make_trainer, make(), "k_center", pool)
    assert isinstance(trainer.scorer.head, TwoHeads)
    assert trainer.scorer.score(torch.arange(16)).given("embeddings").shape == (16, 2 * TIMM_VIT["embed_dim"])
    captions = ["clothing"] * len(pool)
    with pytest.raises(ValueError, match=r"CEA moves the one embedding that enters a head.*two heads.*leave CEA out"):
        make_trainer(make(), [CEACallback(text_encoder, captions)], pool=pool, strategy="ods", **RUN).train()
