"""The conditions that were found, in a folder of the run: as JSON, each with a few of its images."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from vecaf_hf.conditions.condition import Condition

# In a run's folder, and in that.
FOLDER, JSON_FILE, MAP_FILE = "conditions", "conditions.json", "map.html"
# Images of each condition, and their longest side.
IMAGES, LARGEST = 12, 128

ImageOf = Callable[[int], "Image.Image | None"]


@dataclass(frozen=True)
class Failing:
    """What a run's folder holds of conditions.

    Args:
        conditions: The most important first.
        images: Of the first members of each, where they can be shown.
    """

    conditions: tuple[Condition, ...]
    images: tuple[tuple[Image.Image | None, ...], ...]


def write_conditions(conditions: Sequence[Condition], image_of: ImageOf, folder: Path) -> Path:
    """Write the conditions with a few of their images; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = [
        {**one.to_json(), "images": [_packed(image_of(index)) for index in one.members[:IMAGES]]} for one in conditions
    ]
    path = folder / JSON_FILE
    path.write_text(json.dumps(shown), encoding="utf-8")
    return path


def read_conditions(folder: Path) -> Failing | None:
    """What `write_conditions` wrote in a run's folder; None where it did not."""
    path = folder / FOLDER / JSON_FILE
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    images = tuple(tuple(map(_unpacked, one.pop("images"))) for one in found)
    return Failing(tuple(Condition.from_json(one) for one in found), images)


def _packed(image: Image.Image | None) -> str | None:
    if image is None:
        return None
    image, buffer = image.convert("RGB"), BytesIO()
    image.thumbnail((LARGEST, LARGEST))
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _unpacked(content: str | None) -> Image.Image | None:
    return None if content is None else Image.open(BytesIO(base64.b64decode(content)))
