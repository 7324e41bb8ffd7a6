"""The frozen networks that a style network learns from: a dual encoder, and the one whose features are the content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms.v2 import functional as images_to
from transformers import AutoImageProcessor, AutoModel

from styling.network import resized
from styling.options import StyleOptions
from vecaf_hf.cost import CostMeter
from vecaf_hf.text.checkpoint import TextCheckpoint, load_part
from vecaf_hf.text.encoder import DTYPE, TextEncoder
from vecaf_hf.text.pooling import projected
from vecaf_hf.validation import check_choice

KIND = "content model"


def text_direction(options: StyleOptions, meter: CostMeter, device: torch.device | str) -> Tensor:
    """Delta T, from the source text's embedding to the prompt's, each the mean over the templates. [d].

    Raises:
        ValueError: The encoder is no dual encoder or cannot be loaded, or both texts are the same to it.
    """
    encoder = TextEncoder(options.clip, device=device)
    if not encoder.is_dual:
        raise ValueError(
            f"clip is {options.clip!r}, which embeds texts but no images: choose a dual encoder such as CLIP or SigLIP"
        )
    texts = [
        template.replace("{}", text) for text in (options.source, options.prompt) for template in options.templates
    ]
    with meter.measured("encode_text"):
        rows = encoder.encode(texts)
    meter.add("encode_text", encoder.forwards)
    encoder.release()
    source, prompt = normalize(rows.view(2, len(options.templates), -1).mean(dim=1), dim=-1)
    if torch.allclose(source, prompt, atol=1e-6):
        raise ValueError(
            f"{options.clip!r} has the same embedding for the prompt {options.prompt!r} and the source text "
            f"{options.source!r}: there is no direction between them, choose another prompt or source"
        )
    return (prompt - source).to(device)


class ImageTower(nn.Module):
    """E_I: the image side of a dual encoder, for images with a gradient.

    Args:
        name_or_path: Hub id or folder.

    Raises:
        ValueError: It cannot be loaded, or its processor names no size of images.
    """

    def __init__(self, name_or_path: str) -> None:
        super().__init__()
        checkpoint = TextCheckpoint(name_or_path, None, trust_remote_code=False)
        self.model = checkpoint.model("pooled", DTYPE)
        processor = checkpoint.image_processor()
        self.statistics = _statistics(processor)
        self.size = _size(name_or_path, processor)

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] -> [n, d], rows of unit length."""
        pixels = images_to.normalize(resized(images, self.size), *self.statistics)
        return normalize(projected(self.model.get_image_features(pixel_values=pixels)), dim=-1)


class ContentNetwork(nn.Module):
    """Features of any network that transformers loads, a timm one too.

    Args:
        name_or_path: Hub id or folder.
        layers: Names of its modules, in a timm model as timm has them.

    Raises:
        ValueError: It cannot be loaded from safetensors, lacks weights, or has no module of such a name.
    """

    def __init__(self, name_or_path: str, layers: Sequence[str]) -> None:
        super().__init__()
        safe = {"trust_remote_code": False}
        processor = load_part(AutoImageProcessor, "image processor", KIND, name_or_path, **safe)
        self.statistics = _statistics(processor)
        safe |= {"use_safetensors": True, "output_loading_info": True}
        model, report = load_part(AutoModel, "weights (safetensors alone)", KIND, name_or_path, **safe)
        missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
        if missing:
            raise ValueError(f"{KIND} {name_or_path!r} lacks weights: {missing[0]} is missing")
        # transformers' wrapper of a timm model has it as an attribute.
        inner = getattr(model, "timm_model", model).eval().requires_grad_(False)
        named = dict(inner.named_modules())
        for layer in layers:
            check_choice(f"content_layers of {name_or_path!r}", layer, filter(None, named), or_callable=False)
        self.model, self.layers = inner, {layer: named[layer] for layer in layers}

    def forward(self, images: Tensor) -> list[Tensor]:
        """[n, 3, h, w] in [0, 1] -> what each layer gives."""
        found: dict[str, Tensor] = {}
        hooks = [module.register_forward_hook(_keeping(found, name)) for name, module in self.layers.items()]
        try:
            # Without timm's head, which is not needed.
            getattr(self.model, "forward_features", self.model)(images_to.normalize(images, *self.statistics))
        finally:
            for hook in hooks:
                hook.remove()
        return [found[layer] for layer in self.layers]


def _keeping(found: dict[str, Tensor], name: str) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found[name] = output[0] if isinstance(output, (tuple, list)) else output

    return keep


def _statistics(processor: Any) -> tuple[list[float], list[float]]:
    """Mean and deviation of each colour, as images of [0, 1] are normalised."""
    # timm's processor has both in a dictionary.
    known: Mapping[str, Any] = getattr(processor, "data_config", None) or {
        "mean": processor.image_mean,
        "std": processor.image_std,
    }
    return list(known["mean"]), list(known["std"])


def _size(name_or_path: str, processor: Any) -> tuple[int, int]:
    """Height and width of the images that the processor makes."""
    cropped = getattr(processor, "do_center_crop", False)
    known = (processor.crop_size if cropped else getattr(processor, "size", None)) or {}
    height, width = (known.get(side) or known.get("shortest_edge") for side in ("height", "width"))
    if not height or not width:
        raise ValueError(
            f"clip is {name_or_path!r}, whose processor names no height and width of images: choose a dual encoder "
            "for images of one size, such as CLIP or SigLIP"
        )
    return int(height), int(width)
