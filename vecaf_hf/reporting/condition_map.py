"""A map of scored samples to explore: one HTML file that holds its data and images, and fetches nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vecaf_hf.conditions.condition import Condition
from vecaf_hf.conditions.stored import ImageOf
from vecaf_hf.printable import printable

# Pixels of an image's side, and images in a row and in a column of a sheet.
SIDE, PER_ROW = 32, 64
# Steps of a coordinate and of a loss.
STEPS, LOSS_STEPS = 65535, 255
# The data's place in the template.
DATA = "/*DATA*/"


@dataclass(frozen=True)
class MapData:
    """What the map shows.

    Args:
        indices: Positions in the dataset. LongTensor [M].
        places: In the plane. [M, 2].
        losses: [M].
        labels: LongTensor [M].
        predicted: LongTensor [M].
        conditions: Lit up where they are clicked.
        selections: Positions that each loop selected; none for a dataset that is not the pool.
        class_names: In the order of the logits.
        method: How the plane was made.
        captions: Of each sample, or none.
    """

    indices: Tensor
    places: Tensor
    losses: Tensor
    labels: Tensor
    predicted: Tensor
    conditions: Sequence[Condition]
    selections: Sequence[Tensor]
    class_names: Sequence[str]
    method: str
    captions: Sequence[str | None] = ()


def write_map(data: MapData, image_of: ImageOf, path: Path) -> Path:
    """Write the page; returns its path."""
    template = files("vecaf_hf.reporting").joinpath("templates/map.html").read_text(encoding="utf-8")
    # What could end the script is written so that it does not.
    content = json.dumps(_content(data, image_of)).replace("<", "\\u003c")
    path.write_text(template.replace(DATA, content), encoding="utf-8")
    return path


def _content(data: MapData, image_of: ImageOf) -> dict[str, object]:
    low, high = data.places.min(dim=0).values, data.places.max(dim=0).values
    places = ((data.places - low) / (high - low).clamp(min=1e-12) * STEPS).round()
    most = float(data.losses.quantile(0.99).clamp(min=1e-12)) if len(data.losses) else 1.0
    group = torch.zeros(len(data.indices), dtype=torch.long)
    for number, one in reversed([*enumerate(data.conditions, start=1)]):
        group[torch.isin(data.indices, torch.tensor(one.members))] = number
    return {
        "count": len(data.indices),
        "index": _packed(data.indices.numpy().astype("<u4")),
        "x": _packed(places[:, 0].numpy().astype("<u2")),
        "y": _packed(places[:, 1].numpy().astype("<u2")),
        "loss": _packed((data.losses / most).clamp(max=1).mul(LOSS_STEPS).round().numpy().astype("u1")),
        "most": most,
        "label": _packed(data.labels.numpy().astype("<u2")),
        "predicted": _packed(data.predicted.numpy().astype("<u2")),
        "group": _packed(group.numpy().astype("<u2")),
        "selected": [_packed(np.packbits(torch.isin(data.indices, one).numpy())) for one in data.selections],
        "conditions": [
            {
                "name": printable(one.title),
                "size": len(one.members),
                "accuracy": one.accuracy,
                "ofClasses": one.class_accuracy,
                "byLoop": one.by_loop,
            }
            for one in data.conditions
        ],
        "classes": [printable(name) for name in data.class_names],
        "captions": [caption and printable(caption) for caption in data.captions],
        "method": data.method,
        "side": SIDE,
        "perRow": PER_ROW,
        "sheets": _sheets(data.indices.tolist(), image_of),
    }


def _packed(values: NDArray[np.generic]) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _sheets(indices: Sequence[int], image_of: ImageOf) -> list[str]:
    """The images, small, in the order of the samples, so many to a sheet; JPEG files in base64."""
    sheets = []
    for start in range(0, len(indices), PER_ROW**2):
        part = indices[start : start + PER_ROW**2]
        sheet = Image.new("RGB", (SIDE * PER_ROW, SIDE * -(-len(part) // PER_ROW)), "white")
        for place, index in enumerate(part):
            image = image_of(index)
            if image is not None:
                row, column = divmod(place, PER_ROW)
                sheet.paste(image.convert("RGB").resize((SIDE, SIDE)), (SIDE * column, SIDE * row))
        buffer = BytesIO()
        sheet.save(buffer, "JPEG", quality=70)
        sheets.append(base64.b64encode(buffer.getvalue()).decode())
    return sheets
