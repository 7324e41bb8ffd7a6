"""A small U-Net of the shape of CLIPstyler's style network (arXiv 2112.00374)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Channels at full size; each of the LEVELS below has twice those above it but for the first.
WIDTH = 16
LEVELS = 3
# Deviation of the last layer's weights at the start.
START = 0.01


class StyleBlock(nn.Module):
    """Two convolutions, each normalised per image, and a straight way beside them.

    Args:
        taken: Channels in.
        given: Channels out.
    """

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (taken, given):
            layers += [nn.Conv2d(channels, given, 3, padding=1), nn.InstanceNorm2d(given), nn.ReLU()]
        self.bent = nn.Sequential(*layers)
        self.straight = nn.Conv2d(taken, given, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[n, taken, h, w] -> [n, given, h, w]."""
        return self.bent(features) + self.straight(features)


class UNet(nn.Module):
    """What is added to an image: [n, 3, h, w] -> [n, 3, h, w], h and w any multiple of `stride` above it.

    At the start it is small, so that training begins near the source and needs no pretrained decoder, as the authors'
    fast variant does; but not zero: the direction from an image to itself is none.
    """

    stride = 2**LEVELS

    def __init__(self) -> None:
        super().__init__()
        widths = [WIDTH * 2 ** max(0, level - 1) for level in range(LEVELS + 1)]
        self.first = nn.Sequential(nn.Conv2d(3, WIDTH, 1), StyleBlock(WIDTH, WIDTH))
        self.down = nn.ModuleList(StyleBlock(widths[level], widths[level + 1]) for level in range(LEVELS))
        self.halve = nn.ModuleList(nn.Conv2d(width, width, 4, stride=2, padding=1) for width in widths[1:])
        self.deepest = StyleBlock(widths[-1], 2 * widths[-1])
        self.up = nn.ModuleList(StyleBlock(3 * width, width) for width in widths[:0:-1])
        colours = nn.Conv2d(WIDTH, 3, 1, bias=False)
        nn.init.normal_(colours.weight, std=START)
        self.last = nn.Sequential(StyleBlock(2 * WIDTH, WIDTH), colours)

    def forward(self, images: Tensor) -> Tensor:
        features = first = self.first(images)
        kept = []
        for block, halve in zip(self.down, self.halve, strict=True):
            kept.append(block(features))
            features = halve(kept[-1])
        features = self.deepest(features)
        for block, beside in zip(self.up, reversed(kept), strict=True):
            enlarged = functional.interpolate(features, scale_factor=2, mode="bilinear")
            features = block(torch.cat([enlarged, beside], dim=1))
        return self.last(torch.cat([features, first], dim=1))
