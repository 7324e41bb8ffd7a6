#!/usr/bin/env bash
# Reading a JPEG inside `Dataset.map` stores it anew at quality 75, whatever the function returns.
#
# Packages:   datasets 5.2.0, Pillow 13.0.0, NumPy 2.4.6.
# Expected:   The guide to `map` says that the columns which the function returns are added or replaced. A function that
#             reads `example["image"]` and returns only a new column `width` leaves the stored image as it is.
# Happens:    Where images are stored as bytes (Parquet, the Hub, archives), the image that was decoded for the function
#             is encoded anew with Pillow's default quality, and replaces the stored one. Nothing warns.
#             Images stored as paths of local files, and formats without loss, stay as they are.
# Hurts:      Whoever computes a size, a hash, an embedding or a score of each image by `map` before finetuning: training
#             then sees worse images than evaluation does, fine texture (histology, satellite tiles) goes first, and
#             what was uploaded afterwards is the worse copy.
# Avoid:      `input_columns=["image"]`, with which the stored bytes stay, or map over
#             `cast_column("image", Image(decode=False))` and decode in the function.
#
# Observed:
#   a JPEG of quality 95, its width returned:         10508 bytes -> 4183, pixels change by 6.9 on average, 48 at most
#   the same with batched=True:                       10508 bytes -> 4183, pixels change by 6.9 on average, 48 at most
#   the same with input_columns=["image"]:            10508 bytes -> 10508, pixels change by 0.0 on average, 0 at most
#   the same with decode=False:                       10508 bytes -> 10508, pixels change by 0.0 on average, 0 at most
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" datasets==5.2.0 pillow==13.0.0 numpy==2.4.6

python - <<'PYTHON'
import io

import datasets
import numpy as np
from PIL import Image, ImageFilter

datasets.disable_progress_bars()
noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
buffer = io.BytesIO()
Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1)).save(buffer, "JPEG", quality=95)
original = datasets.Dataset.from_dict(
    {"image": [{"bytes": buffer.getvalue(), "path": None}]},
    features=datasets.Features({"image": datasets.Image()}),
)
undecoded = original.cast_column("image", datasets.Image(decode=False))


def compare(what, mapped):
    stored = mapped.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]
    was, now = (np.asarray(Image.open(io.BytesIO(file))).astype(int) for file in (buffer.getvalue(), stored))
    change = np.abs(was - now)
    sizes = f"{len(buffer.getvalue())} bytes -> {len(stored)}"
    print(f"{what}: {sizes}, pixels change by {change.mean():.1f} on average, {change.max()} at most")
    return len(stored) / len(buffer.getvalue()), change.max()


def width(example):
    return {"width": example["image"].width}


def widths(examples):
    return {"width": [image.width for image in examples["image"]]}


def width_of(image):
    return {"width": image.width}


def width_of_bytes(example):
    return {"width": Image.open(io.BytesIO(example["image"]["bytes"])).width}


share, change = compare("its width returned", original.map(width))
assert share < 0.5 and change > 20
share, change = compare("batched=True", original.map(widths, batched=True))
assert share < 0.5 and change > 20
assert compare('input_columns=["image"]', original.map(width_of, input_columns=["image"])) == (1, 0)
assert compare("decode=False", undecoded.map(width_of_bytes)) == (1, 0)
PYTHON
