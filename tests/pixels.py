"""Images to what a tiny model takes, and samples to a batch of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def to_pixels(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """[3, 32, 32] in [-1, 1] from a 28 x 28 image in grey."""
    pixels = []
    for picture in batch["image"]:
        grey = torch.from_numpy(np.array(picture)).float() / 127.5 - 1
        pixels.append(torch.nn.functional.pad(grey, (2, 2, 2, 2), value=-1.0).expand(3, -1, -1))
    return {"pixel_values": pixels, "labels": batch["label"]}


def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": torch.tensor([sample["labels"] for sample in samples]),
    }
