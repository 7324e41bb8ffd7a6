"""ImageNet-C's corruptions (arXiv 1903.12261) at its severities, of images of any size.

They are those of the `imagecorruptions-imaug` package, the kept-up fork of `imagecorruptions`:

    pip install "vecaf_hf[corruptions]"
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import datasets
import numpy as np
from PIL import Image

from pools.remaking import remade
from vecaf_hf.data.rgb import to_rgb
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.validation import check_choice, whole

PACKAGE = "imagecorruptions-imaug"
# Their parameters are lengths in pixels of ImageNet's images: flakes, drops, patches, radii.
WITH_LENGTHS = (
    *("snow", "frost", "fog", "spatter"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur", "elastic_transform"),
)
PIXEL_BY_PIXEL = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    *("brightness", "contrast", "saturate", "pixelate", "jpeg_compression"),
)
CORRUPTIONS = (*WITH_LENGTHS, *PIXEL_BY_PIXEL)
SEVERITIES = range(1, 6)
# Least shorter side, in pixels, at which the former work; what is smaller is enlarged for that. Looked at on images of
# 28 to 64 px: on their own pixels a flake is as broad as a sleeve, at 224 px snow shrinks to noise.
WORKING_SIZE = 112
# These draw from generators of their own, which they are given the seed of.
OWN_GENERATOR = ("impulse_noise", "glass_blur")


def corrupt(picture: Image.Image, name: str, severity: int, seed: int) -> Image.Image:
    """The image under a corruption: the same one whenever it is asked for by this seed.

    It has the size of the given one, of 4 x 4 pixels at least, and is in RGB unless that is grey (mode L).

    Args:
        picture: Any image.
        name: One of CORRUPTIONS.
        severity: 1 to 5.
        seed: Of at least 0; draws the flakes, the noise.

    Raises:
        ValueError: The name or the severity is none.
        ImportError: The package is not there.
    """
    check_corruption(name, severity)
    mode = "L" if picture.mode == "L" else "RGB"
    # Not all corruptions take grey images.
    working = to_rgb(picture)
    scale = WORKING_SIZE / min(working.size)
    if name in WITH_LENGTHS and scale > 1:
        size = (round(working.width * scale), round(working.height * scale))
        working = working.resize(size, Image.Resampling.BICUBIC)
    options = {"seed": seed} if name in OWN_GENERATOR else {}
    with seeded(seed):
        found = package_corruptions()[name](working, severity, **options)
    # As the package's own `corrupt`, which refuses small images, rounds.
    made = Image.fromarray(np.asarray(found).astype(np.uint8))
    if made.size != picture.size:
        made = made.resize(picture.size, Image.Resampling.BOX)
    return made.convert(mode)


def corrupted(
    dataset: datasets.Dataset,
    image_column: str,
    name: str,
    severity: int,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> datasets.Dataset:
    """Samples with their images corrupted, each by (seed, its place among them); made once, then from `datasets`'
    cache.

    Args:
        dataset: With a column of images; a transform of it is left out.
        image_column: That column.
        name: One of CORRUPTIONS.
        severity: 1 to 5.
        seed: Of at least 0.
        rows: Positions of the samples; all by default.

    Raises:
        ValueError: There is no such column of images, an image cannot be read, or the name or the severity is none.
        ImportError: The package is not there.
    """
    check_corruption(name, severity)
    package = package_version()

    def make(picture: Image.Image, place: int) -> Image.Image:
        return corrupt(picture, name, severity, seed_of(seed, place))

    depends_on = [name, severity, seed, WORKING_SIZE, package]
    return remade(dataset, image_column, make, rows, "a corruption", f"{name} {severity}", depends_on)


def check_corruption(name: str, severity: int) -> None:
    """Raise a ValueError unless these are a corruption and a severity."""
    check_choice("corruption", name, CORRUPTIONS, or_callable=False)
    if whole("severity", severity, SEVERITIES[0]) not in SEVERITIES:
        raise ValueError(f"severity is {severity}; it must be {SEVERITIES[0]} to {SEVERITIES[-1]}")


def package_version() -> str:
    """The version of the package, which is there and can be used.

    Raises:
        ImportError: It is not; the message says how to install it.
    """
    package_corruptions()
    try:
        return version(PACKAGE)
    except PackageNotFoundError as error:
        # The package that it is a fork of has modules of the same name.
        raise ImportError(
            f"corruptions need {PACKAGE}, and imagecorruptions is another package's: "
            'pip install "vecaf_hf[corruptions]"'
        ) from error


def package_corruptions() -> dict[str, Any]:
    """The package's corruptions by name.

    Raises:
        ImportError: It is not there; the message says how to install it.
    """
    try:
        from imagecorruptions import corruption_dict
    except ImportError as error:
        # OpenCV's package for desktops, which is what is required, needs their libraries.
        desktop = "; `pip install opencv-python-headless` in place of opencv-python needs no such library"
        raise ImportError(
            f'corruptions need a package: pip install "vecaf_hf[corruptions]" ({error}'
            f"{desktop if 'cannot open shared object' in str(error) else ''})"
        ) from error
    return corruption_dict
