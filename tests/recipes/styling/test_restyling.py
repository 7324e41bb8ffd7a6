"""A dataset restyled: its images alone change, once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from PIL import Image
from styling import StyleNetwork, StyleOptions, restyled

from vecaf_hf.cost import CostMeter


def test_everything_but_the_images_stays(pictures: Dataset, network: StyleNetwork) -> None:
    made = restyled(pictures, "image", network)
    assert made.features == pictures.features
    for column in ("label", "caption"):
        assert made[column][:] == pictures[column][:]
    for ours, before in zip(made["image"], pictures["image"], strict=True):
        assert (ours.size, ours.mode) == (before.size, before.mode)
        assert ours.tobytes() != before.tobytes()


def test_images_are_the_networks(pictures: Dataset, network: StyleNetwork) -> None:
    made = restyled(pictures, "image", network, batch_size=5)
    for ours, before in zip(made["image"], pictures["image"], strict=True):
        wanted = np.asarray(network.restyle([before])[0], int)
        assert np.abs(np.asarray(ours, int) - wanted).max() <= 1


def test_restyled_images_stand_beside_the_source(pictures: Dataset, network: StyleNetwork) -> None:
    both = concatenate_datasets([pictures, restyled(pictures, "image", network)])
    assert len(both) == 2 * len(pictures)
    assert both[0]["image"].tobytes() == pictures[0]["image"].tobytes() != both[len(pictures)]["image"].tobytes()


def test_a_transform_is_kept_and_not_called(pictures: Dataset, network: StyleNetwork) -> None:
    def sizes(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"size": [image.size for image in batch["image"]]}

    made = restyled(pictures.with_transform(sizes), "image", network)
    assert made[1] == {"size": pictures[1]["image"].size}
    assert made.with_format(None)[1]["image"].tobytes() != pictures[1]["image"].tobytes()


def test_what_lies_on_disk_is_restyled_once(pictures: Dataset, network: StyleNetwork, tmp_path: Path) -> None:
    pictures.save_to_disk(tmp_path / "pictures")
    stored, meter = datasets.load_from_disk(str(tmp_path / "pictures")), CostMeter()
    first = restyled(stored, "image", network, meter)
    assert meter.work["auxiliary"].samples == len(pictures)
    assert meter.work["auxiliary"].flops > 0
    counted = meter.work["auxiliary"].flops
    again = restyled(stored, "image", network, meter)
    assert meter.work["auxiliary"].flops == counted
    assert [image.tobytes() for image in again["image"]] == [image.tobytes() for image in first["image"]]
    torch.manual_seed(1)
    other = StyleNetwork(StyleOptions("fog", image_size=16))
    changed = restyled(stored, "image", other, meter)
    assert meter.work["auxiliary"].samples == 2 * len(pictures)
    assert changed[0]["image"].tobytes() != first[0]["image"].tobytes()


def test_an_image_that_cannot_be_read(pictures: Dataset, network: StyleNetwork) -> None:
    good = io.BytesIO()
    Image.new("L", (20, 20)).save(good, "PNG")
    stored = [{"bytes": good.getvalue(), "path": None}, {"bytes": b"no image", "path": None}, None]
    features = datasets.Features(image=datasets.Image())
    for bad, message in ((1, "sample 1 .* cannot be read"), (2, "sample 1 .* is missing: mend it")):
        dataset = Dataset.from_dict({"image": [stored[0], stored[bad]]}, features=features)
        with pytest.raises(ValueError, match=f"the image of {message}"):
            restyled(dataset, "image", network)


def test_no_such_column(pictures: Dataset, network: StyleNetwork) -> None:
    with pytest.raises(ValueError, match=r"restyled reads raw images from the column 'images' .* is not there"):
        restyled(pictures, "images", network)


@pytest.mark.parametrize("hidden", [False, True])
def test_progress_bar(
    pictures: Dataset, network: StyleNetwork, hidden: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets.enable_progress_bars()
    try:
        restyled(pictures, "image", network, disable_tqdm=hidden)
        assert datasets.utils.are_progress_bars_disabled() is False
    finally:
        datasets.disable_progress_bars()
    assert ("Restyling images" in capsys.readouterr().err) is not hidden
