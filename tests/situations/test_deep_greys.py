"""Grey images of 10, 12 or 16 bits and of floats reach the recipe's model as they look, neither white nor black."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from every_case import every_case
from PIL import Image as PILImage

from vecaf_hf.cli.building import find_range, with_images
from vecaf_hf.data.rgb import Greys, to_rgb
from vecaf_hf.data.stored_images import raw_images

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
KINDS: dict[str, tuple[Any, float, str]] = {
    "8 bits": (np.uint8, 255, "png"),
    "10 bits": (np.uint16, 1023, "png"),
    "12 bits": (np.uint16, 4095, "png"),
    "16 bits": (np.uint16, 65535, "png"),
    "12 bits of 32": (np.int32, 4095, "tiff"),
    "floats": (np.float32, 1, "tiff"),
    "floats of 16 bits": (np.float32, 65535, "tiff"),
}


def stored(folder: Path, arrays: list[np.ndarray], ending: str) -> Dataset:
    paths = [str(folder / f"{place}.{ending}") for place in range(len(arrays))]
    for path, values in zip(paths, arrays, strict=True):
        PILImage.fromarray(values).save(path)
    columns = {"image": paths, "label": [0] * len(paths)}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": Value("int64")}))


def pixels(picture: PILImage.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).float().permute(2, 0, 1)


@every_case("kind", KINDS)
def test_a_ramp_stays_a_ramp(tmp_path: Path, kind: str) -> None:
    dtype, top, ending = KINDS[kind]
    folder = tmp_path / kind
    folder.mkdir()
    # Half as bright and as bright as can be: one range for both.
    arrays = [(RAMP * top * part).astype(dtype) for part in (1.0, 0.5)]
    dataset = stored(folder, arrays, ending)
    shown = with_images(dataset, pixels, "image", "label", find_range(dataset, "image"))
    for place, part in enumerate((1.0, 0.5)):
        values = shown[place]["pixel_values"]
        assert values.shape == (3, 8, 8)
        assert np.abs(values.numpy() - 255 * part * RAMP).max() <= 1.5, part
    # Captioners and pages look at one image alone.
    assert np.abs(np.array(raw_images(dataset, "image", "it", "")(0))[..., 0] - 255 * RAMP).max() <= 1.5


def test_values_below_zero_are_not_black() -> None:
    picture = PILImage.fromarray((RAMP * 2000 - 1000).astype(np.int32))
    assert np.abs(np.array(to_rgb(picture))[..., 0] - 255 * RAMP * 2000 / 2023).max() <= 1.5


def test_what_is_clipped_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    greys = Greys.of([PILImage.fromarray((RAMP * 4095).astype(np.uint16))])
    assert greys is not None
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            greys(PILImage.fromarray((RAMP * 65535).astype(np.uint16)))
    assert [record.getMessage().count("outside 0 to 4095") for record in caplog.records] == [1]


def test_a_dead_pixel_sets_no_range() -> None:
    values = (np.tile(RAMP, (32, 32)) * 1023).astype(np.uint16)
    values[0, 0] = 65535
    greys = Greys.of([PILImage.fromarray(values)])
    assert greys is not None and (greys.black, greys.white) == (0, 1023)
