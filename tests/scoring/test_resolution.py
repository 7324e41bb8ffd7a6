"""Images are resized, and whoever cannot take them is told so."""

import pytest
import torch
from every_case import every_case
from torch import nn

from vecaf_hf.scoring.resolution import at_image_size, first_forward_at


class Plain(nn.Module):
    def forward(self, pixel_values):
        return pixel_values


class Stretching(nn.Module):
    main_input_name = "images"

    def forward(self, images, interpolate_pos_encoding=None):
        return images


def test_images_alone_are_resized():
    images, labels = torch.randn(3, 2, 8, 12), torch.zeros(3)
    found = at_image_size(Plain(), {"pixel_values": images, "labels": labels}, 4)
    assert found.keys() == {"pixel_values", "labels"} and found["labels"] is labels
    expected = nn.functional.interpolate(images, (4, 4), mode="bilinear", antialias=True)
    assert torch.equal(found["pixel_values"], expected)


def test_averages_stay():
    """Antialiased: each pixel of half the size stands for those of its place, none is left out."""
    images = torch.zeros(1, 1, 8, 8)
    images[..., ::2, ::2] = 1
    found = at_image_size(Plain(), {"pixel_values": images}, 2)["pixel_values"]
    torch.testing.assert_close(found.mean(), torch.tensor(0.25), rtol=0, atol=0.05)


def test_positions_are_stretched_where_a_model_can_do_that():
    found = at_image_size(Stretching(), {"images": torch.zeros(1, 3, 8, 8)}, 4)
    assert found["interpolate_pos_encoding"] is True and found["images"].shape == (1, 3, 4, 4)


def test_a_wrapped_model_is_asked_itself():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = Stretching()

        def get_base_model(self):
            return self.base

        def forward(self, *args, **named):
            return self.base(*args, **named)

    found = at_image_size(Wrapper(), {"images": torch.zeros(1, 3, 8, 8)}, 4)
    assert found["interpolate_pos_encoding"] is True and found["images"].shape == (1, 3, 4, 4)


@every_case(
    ("batch", "found"),
    [
        ({}, "NoneType"),
        ({"pixel_values": [1]}, "list"),
        ({"pixel_values": torch.zeros(2, 12)}, r"float32 \[2, 12\]"),
        ({"pixel_values": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, r"uint8 \[2, 3, 4, 4\]"),
    ],
)
def test_a_batch_without_images(batch, found):
    with pytest.raises(ValueError, match=f"in the batch's 'pixel_values', and finds .*{found}: leave"):
        at_image_size(Plain(), batch, 4)


@every_case("error", [ValueError, RuntimeError, AssertionError])
def test_a_model_that_takes_no_other_size(error):
    class Fixed(nn.Module):
        def forward(self, pixel_values):
            raise error("doesn't match model")

    with pytest.raises(ValueError, match=r"scoring_image_size is 4, and Fixed takes no images of that size .*match"):
        first_forward_at(Fixed(), {"pixel_values": torch.zeros(1, 3, 4, 4)}, 4)


@every_case("error", [torch.OutOfMemoryError("out of memory"), RuntimeError("MPS backend out of memory")])
def test_memory_is_another_matter(error):
    class Large(nn.Module):
        def forward(self, pixel_values):
            raise error

    with pytest.raises(type(error), match=str(error)):
        first_forward_at(Large(), {"pixel_values": torch.zeros(1, 3, 4, 4)}, 4)
