"""Images of any size and colour through the network, and the network through a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from styling import StyleNetwork, StyleOptions
from styling.network import METADATA


@pytest.fixture
def fresh() -> StyleNetwork:
    torch.manual_seed(0)
    return StyleNetwork(StyleOptions("snow", image_size=16))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 23), (1, 1), (3, 40), (57, 8)])
def test_output_has_the_size_of_the_input_and_is_an_image(fresh: StyleNetwork, height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width)
    with torch.no_grad():
        fresh.unet.last[-1].weight.mul_(100)
        restyled = fresh(images)
    assert restyled.shape == images.shape
    assert restyled.min() >= 0 and restyled.max() <= 1
    assert not torch.equal(restyled, images)


def test_it_begins_near_the_source_but_not_at_it(fresh: StyleNetwork) -> None:
    images = torch.rand(2, 3, 24, 24) * 0.8 + 0.1
    change = (fresh(images) - images).abs()
    assert 1e-4 < change.mean() < 0.1


def test_an_image_is_restyled_alike_whatever_is_beside_it(fresh: StyleNetwork) -> None:
    images = torch.rand(3, 3, 20, 20)
    with torch.no_grad():
        together, alone = fresh(images), fresh(images[1:2])
    torch.testing.assert_close(together[1:2], alone)


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    colours = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(colours).convert(mode)


def test_pictures_keep_size_order_and_greyness(network: StyleNetwork) -> None:
    given = [picture("RGB", (33, 21)), picture("L", (9, 14)), picture("RGBA", (20, 20)), picture("RGB", (33, 21))]
    given += [picture("P", (20, 20)), picture("L", (33, 21))]
    made = network.restyle(given)
    assert [one.size for one in made] == [one.size for one in given]
    assert [one.mode for one in made] == ["RGB", "L", "RGB", "RGB", "RGB", "L"]
    for one, before in zip(made, given, strict=True):
        alone = np.asarray(network.restyle([before])[0], int)
        # Sums differ in their last bits with what else is in a batch.
        assert np.abs(np.asarray(one, int) - alone).max() <= 1
        assert np.abs(alone - np.asarray(before.convert(one.mode), int)).mean() > 0.5


def test_small_pictures_are_seen_at_the_scale_of_training(network: StyleNetwork) -> None:
    """A picture of half the crops' size is restyled as its enlargement is."""
    assert network.options.image_size == 16
    small = picture("RGB", (8, 8))
    enlarged = network.restyle([small.resize((16, 16), Image.Resampling.BICUBIC)])[0]
    wanted = np.asarray(enlarged.resize((8, 8), Image.Resampling.BICUBIC), int)
    assert np.abs(np.asarray(network.restyle([small])[0], int) - wanted).max() <= 3


def test_saved_is_loaded(network: StyleNetwork, tmp_path: Path) -> None:
    path = tmp_path / "snow.safetensors"
    network.save(path)
    loaded = StyleNetwork.load(path)
    assert loaded.options == network.options
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    given = picture("RGB", (25, 18))
    assert network.restyle([given])[0].tobytes() == loaded.restyle([given])[0].tobytes()


def test_a_file_that_is_no_style_network(network: StyleNetwork, tmp_path: Path) -> None:
    text, weights, other = (tmp_path / name for name in ("text", "weights", "other"))
    text.write_text("snow")
    with pytest.raises(ValueError, match="is no safetensors file"):
        StyleNetwork.load(text)
    save_file({"weight": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match="holds no style network's options"):
        StyleNetwork.load(weights)
    save_file({"weight": torch.zeros(1)}, other, metadata={METADATA: '{"prompt": "snow"}'})
    with pytest.raises(ValueError, match="train it again"):
        StyleNetwork.load(other)
