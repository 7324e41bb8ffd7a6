"""The trained style network: images in, restyled images out; kept in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as images_to

from styling.options import SMALLEST, StyleOptions
from styling.unet import UNet
from vecaf_hf.data.rgb import to_rgb

# What a file is known by, and where it holds the options.
METADATA = "style_options"
# Pixels in one forward pass, unless a single image has more.
PIXELS_AT_ONCE = 2**21


class StyleNetwork(nn.Module):
    """Restyles images as the options' prompt says, once it is trained.

    Args:
        options: What it is trained for; kept beside the weights.
    """

    def __init__(self, options: StyleOptions) -> None:
        super().__init__()
        self.options = options
        self.unet = UNet()

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] -> the same, of any size."""
        height, width = images.shape[-2:]
        right, below = (_padded(side) - side for side in (width, height))
        change = self.unet(functional.pad(images, (0, right, 0, below), mode="replicate"))
        return (images + change[..., :height, :width]).clamp(0, 1)

    def restyle(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Each image restyled, in its own size; a grey one (mode L) stays grey, any other comes out in RGB."""
        made: dict[int, Image.Image] = {}
        for positions in self._together(images):
            pixels = torch.stack([to_tensor(images[position]) for position in positions])
            restyled = self._restyled(pixels.to(self.device)).cpu()
            for position, values in zip(positions, restyled, strict=True):
                picture = images_to.to_pil_image((values * 255).round().to(torch.uint8))
                made[position] = picture.convert("L") if images[position].mode == "L" else picture
        return [made[position] for position in range(len(images))]

    def _together(self, images: Sequence[Image.Image]) -> Iterator[list[int]]:
        """Positions of images of one size, as many as go through the network at once."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for position, image in enumerate(images):
            sizes.setdefault(image.size, []).append(position)
        for (width, height), positions in sizes.items():
            pixels = width * height * max(1.0, self.options.image_size / min(width, height)) ** 2
            count = max(1, int(PIXELS_AT_ONCE // pixels))
            yield from (positions[start : start + count] for start in range(0, len(positions), count))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.parameters()).device

    @torch.inference_mode()
    def _restyled(self, images: Tensor) -> Tensor:
        """The same at the scale of training. [n, 3, h, w]."""
        enlarged = enlarged_to(images, self.options.image_size)
        restyled = self(enlarged)
        if enlarged.shape == images.shape:
            return restyled
        return resized(restyled, (images.shape[-2], images.shape[-1]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and options into a safetensors file."""
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, path, metadata={METADATA: json.dumps(asdict(self.options))})

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> StyleNetwork:
        """The network that `save` has written.

        Raises:
            ValueError: The file is no such network's.
        """
        path = os.fspath(path)
        try:
            with safe_open(path, framework="pt") as file:
                stored = (file.metadata() or {}).get(METADATA)
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except SafetensorError as error:
            raise ValueError(
                f"{path} is no safetensors file ({error}): give the one that StyleNetwork.save wrote"
            ) from error
        if stored is None:
            raise ValueError(f"{path} holds no style network's options: give the file that StyleNetwork.save wrote")
        try:
            network = cls(StyleOptions(**json.loads(stored)))
            network.load_state_dict(weights)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{path} does not hold this version's style network: train it again") from error
        return network.to(device).eval()


def to_tensor(image: Image.Image) -> Tensor:
    """[3, h, w] in [0, 1]."""
    return images_to.pil_to_tensor(to_rgb(image)).float() / 255


def enlarged_to(images: Tensor, size: int) -> Tensor:
    """The images as they are, or so enlarged that the shorter side has this many pixels. [..., 3, h, w]."""
    shorter = min(images.shape[-2:])
    if shorter >= size:
        return images
    height, width = (max(size, round(side * size / shorter)) for side in images.shape[-2:])
    return resized(images, (height, width))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., 3, h, w] in [0, 1] -> another height and width."""
    bicubic = images_to.InterpolationMode.BICUBIC
    return images_to.resize(images, list(size), interpolation=bicubic, antialias=True).clamp(0, 1)


def _padded(side: int) -> int:
    return max(SMALLEST, -(-side // UNet.stride) * UNet.stride)
