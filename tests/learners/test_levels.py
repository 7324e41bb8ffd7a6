"""Feature levels of every kind of model, and what is averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import transformers as tf
from every_case import every_case
from torch import nn

from vecaf_hf.learners.levels import FeatureLevels, find_levels, globally_averaged

WIDTHS = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
STAGES = {"hidden_sizes": [8, 12, 16], "depths": [1, 1, 2]}


def wrapped(architecture: str, **options: Any) -> nn.Module:
    config = tf.TimmWrapperConfig(architecture=architecture, model_args=options, num_labels=3)
    return tf.TimmWrapperForImageClassification(config)


# With the features of each level.
MODELS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "vit": (
        lambda: tf.ViTForImageClassification(
            tf.ViTConfig(image_size=32, patch_size=16, num_hidden_layers=12, num_labels=3, **WIDTHS)
        ),
        [16] * 4,
    ),
    "swin": (
        lambda: tf.SwinForImageClassification(
            tf.SwinConfig(image_size=32, embed_dim=8, depths=[1, 3], num_heads=[1, 2], window_size=4, num_labels=3)
        ),
        [16, 16],
    ),
    "convnext": (
        lambda: tf.ConvNextForImageClassification(tf.ConvNextConfig(num_stages=3, num_labels=3, **STAGES)),
        [8, 12, 16],
    ),
    "resnet": (
        lambda: tf.ResNetForImageClassification(
            tf.ResNetConfig(embedding_size=8, layer_type="basic", num_labels=3, **STAGES)
        ),
        [8, 12, 16],
    ),
    "timm-deit": (
        lambda: wrapped("deit_tiny_patch16_224", img_size=32, embed_dim=16, depth=6, num_heads=2),
        [16] * 4,
    ),
    "timm-xcit": (lambda: wrapped("xcit_nano_12_p16_224", img_size=32, embed_dim=32, depth=1, num_heads=2), [32]),
    "timm-swin": (
        lambda: wrapped(
            "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2]
        ),
        [8, 16],
    ),
    "timm-efficientnet": (lambda: wrapped("efficientnet_lite0"), [16, 24, 112, 320]),
    "timm itself": (lambda: timm.create_model("resnet18", num_classes=3), [64, 64, 256, 512]),
}


@every_case("name", MODELS)
def test_levels_of_every_kind_of_model(name: str) -> None:
    make, sizes = MODELS[name]
    model = make().eval()
    levels = find_levels(model)
    levels.attach()
    with levels.recording():
        model(torch.randn(3, 3, 32, 32))
    pooled = levels.pooled(3)
    assert [list(values.shape) for values in pooled] == [[3, size] for size in sizes]
    levels.detach()
    assert not any(module._forward_hooks for module in model.modules())


def test_averages_over_positions() -> None:
    tokens, maps = torch.randn(2, 5, 3), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(globally_averaged((tokens, None), False), tokens.sum(dim=1) / 5)
    torch.testing.assert_close(globally_averaged(maps, False), maps.flatten(2).sum(dim=2) / 20)
    torch.testing.assert_close(globally_averaged(maps.permute(0, 2, 3, 1), True), maps.flatten(2).sum(dim=2) / 20)
    assert globally_averaged(tokens[:, 0].bfloat16(), False).dtype == torch.float32


def test_what_is_no_feature_is_refused() -> None:
    for output in (torch.zeros(3), {"features": torch.zeros(3, 2)}):
        with pytest.raises(ValueError, match="choose another strategy"):
            globally_averaged(output, False)


class Blocks(nn.Module):
    def __init__(self, called: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.called = called

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for block in self.blocks[: self.called]:
            values = block(values)
        return values


def recorded(model: nn.Module) -> FeatureLevels:
    levels = find_levels(model)
    levels.attach()
    with levels.recording():
        model(torch.randn(2, 4))
    return levels


def test_only_the_recorded_pass_is_seen_and_given_away_once() -> None:
    model = Blocks()
    levels = recorded(model)
    first = levels.pooled(2)
    model(torch.randn(2, 4))
    assert len(first) == 3 and not levels._pooled
    with pytest.raises(ValueError, match=r"sees \[None, None, None\]"):
        levels.pooled(2)


def test_a_level_that_is_not_passed_or_has_other_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear, Linear, Linear.*one row for each of 2.*\[2, 4\], None\]"):
        recorded(Blocks(called=2)).pooled(2)
    with pytest.raises(ValueError, match="one row for each of 3 samples"):
        recorded(Blocks()).pooled(3)


def test_a_model_without_levels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Sequential has no nn.ModuleList.*put its blocks in an nn.ModuleList"):
        find_levels(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)))
