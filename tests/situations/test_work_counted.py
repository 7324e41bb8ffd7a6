"""The FLOPs that a run reports are those counted by hand, whatever the model is made of; what cannot be counted is
named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import transformers as tf
from every_case import every_case
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from vecaf_hf.cost import FULL_SIZE, CostMeter

IMAGES = torch.zeros(2, 3, 32, 32)
# Tokens of 32 x 32 pixels in patches of 8, with a class token; width and width of the MLP.
TOKENS, WIDTH, MLP = 17, 12, 20
# Of an encoder's layer: query, key and value; scores; weighted values; projection; MLP.
LAYER = 3 * TOKENS * WIDTH**2 + 2 * TOKENS**2 * WIDTH + TOKENS * WIDTH**2 + 2 * TOKENS * WIDTH * MLP
PATCHES = 16 * (3 * 8 * 8) * WIDTH


def torchvision_vit() -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.VisionTransformer(32, 8, 2, 2, WIDTH, MLP, num_classes=7)


def timm_vit() -> nn.Module:
    sizes = {"patch_size": 8, "embed_dim": WIDTH, "num_heads": 2, "depth": 2, "mlp_ratio": MLP / WIDTH}
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7, **sizes)


def convnext() -> nn.Module:
    sizes = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 7}
    return tf.ConvNextForImageClassification(tf.ConvNextConfig(**sizes))


def convnext_products() -> int:
    def block(places: int, width: int) -> int:
        return places * width * 7 * 7 + 2 * places * width * 4 * width

    stem, halving = 64 * (3 * 4 * 4) * 8, 16 * (8 * 2 * 2) * 16
    return stem + block(64, 8) + halving + block(16, 16) + 16 * 7


def swin() -> nn.Module:
    sizes = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    return tf.SwinForImageClassification(tf.SwinConfig(image_size=32, num_labels=7, **sizes))


def swin_products() -> int:
    def block(tokens: int, width: int) -> int:
        # Each token looks at the 16 of its window.
        return 4 * tokens * width**2 + 2 * tokens * 16 * width + 2 * tokens * width * 4 * width

    return 64 * (3 * 4 * 4) * 8 + block(64, 8) + 16 * 32 * 16 + block(16, 16) + 16 * 7


def mamba() -> nn.Module:
    sizes = {"hidden_size": 8, "state_size": 4, "expand": 2, "time_step_rank": 2, "num_hidden_layers": 1}
    return tf.MambaModel(tf.MambaConfig(vocab_size=11, conv_kernel=4, use_mambapy=False, **sizes))


def mamba_products(tokens: int = 5) -> int:
    # The recurrence goes element by element; what it is read out by is a product.
    convolution = (tokens + 3) * 16 * 4
    return tokens * (8 * 32 + 16 * (2 + 4 + 4) + 2 * 16 + 16 * 4 + 16 * 8) + convolution


class Called(nn.Module):
    """A class token that goes through the layer by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.zeros(2, 4)), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) + self.layer(self.token)


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "nn.MultiheadAttention": (
        lambda: nn.TransformerEncoderLayer(WIDTH, 2, MLP, batch_first=True),
        torch.zeros(2, TOKENS, WIDTH),
        LAYER,
    ),
    "ViT of torchvision": (torchvision_vit, IMAGES, PATCHES + 2 * LAYER + WIDTH * 7),
    "ViT of timm": (timm_vit, IMAGES, PATCHES + 2 * LAYER + WIDTH * 7),
    "ConvNeXt": (convnext, IMAGES, convnext_products()),
    "Swin": (swin, IMAGES, swin_products()),
    "state space": (mamba, torch.zeros(2, 5, dtype=torch.long), mamba_products()),
    "recurrent": (lambda: nn.LSTM(4, 5, batch_first=True, bidirectional=True), torch.zeros(2, 7, 4), 7 * 2 * 20 * 9),
    "product with a vector": (lambda: Product(), torch.zeros(2, 4), 4),
    "module called with a Parameter": (Called, torch.zeros(2, 4), 2 * 4 * 3),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), torch.zeros(2, 4), 4 * 3),
}


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight


@every_case("name", CASES)
def test_each_kind_of_model(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, inputs, products = CASES[name]
    try:
        model = make().eval()
    except pytest.skip.Exception:
        return
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        meter = CostMeter()
        with mode(), meter.forward("score", len(inputs)):
            model(inputs)
        assert meter.forward_flops[FULL_SIZE] == 2 * products, mode.__name__
    assert "not known" not in caplog.text


def test_what_cannot_be_counted_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    meter = CostMeter()
    for size in ("2", "4", "8"):
        with meter.forward("score", 2, size=size):
            torch.fft.rfft(torch.zeros(2, 4))
            nn.Bilinear(2, 3, 4)(torch.zeros(2, 2), torch.zeros(2, 3))
    assert caplog.text.count("FLOPs of these operations are not known") == 1
    assert "aten::_fft_r2c, aten::_trilinear" in caplog.text


def test_the_fast_path_is_there_again_after_the_first_forward() -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(KeyError), CostMeter().forward("score", 1):
        assert not torch.backends.mha.get_fastpath_enabled()
        raise KeyError
    assert torch.backends.mha.get_fastpath_enabled()
