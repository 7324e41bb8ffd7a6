"""Scoring at another resolution than training's."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from vecaf_hf.scoring.head import without_wrappers
from vecaf_hf.scoring.memory import is_out_of_memory

# What a forward takes that can stretch learned positions to other sizes.
INTERPOLATE = "interpolate_pos_encoding"


def at_image_size(model: nn.Module, inputs: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A batch with its images resized (bilinear, antialiased), for a model that may have learned positions.

    Args:
        model: Its `main_input_name` is the batch's key for the images; pixel_values if it has none. One that PEFT has
            wrapped is asked itself: the wrapper's forward takes anything.
        inputs: A batch.
        size: Height and width, in pixels.

    Raises:
        ValueError: The batch has no such images, [n, c, h, w] of floats.
    """
    name, images = find_images(model, inputs, "scoring_image_size resizes", "leave scoring_image_size unset")
    resized = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    stretched = {INTERPOLATE: True} if INTERPOLATE in signature(without_wrappers(model).forward).parameters else {}
    return {**inputs, **stretched, name: resized}


def find_images(model: nn.Module, inputs: Mapping[str, Any], wanted: str, advice: str) -> tuple[str, Tensor]:
    """A batch's key for the images, and the images.

    Raises:
        ValueError: The batch has no images, [n, c, h, w] of floats; the message says what wanted them, and what to do.
    """
    name = getattr(without_wrappers(model), "main_input_name", "pixel_values")
    images = inputs.get(name)
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        found = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"{wanted} images, a float Tensor [n, c, h, w] in the batch's {name!r}, and finds {found}: {advice}"
        )
    return name, images


def first_forward_at(model: nn.Module, inputs: Mapping[str, Any], size: int) -> Any:
    """The model's output for a batch that `at_image_size` has resized, and that the model takes at its own size.

    Raises:
        ValueError: The model takes no images of that size.
    """
    try:
        return model(**inputs)
    except (ValueError, RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"scoring_image_size is {size}, and {type(model).__name__} takes no images of that size "
            f"({type(error).__name__}: {error}): choose another, or leave it unset"
        ) from error
