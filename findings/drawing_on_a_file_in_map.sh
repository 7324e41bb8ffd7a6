#!/usr/bin/env bash
# What is drawn on an image inside `Dataset.map` is lost without a word where the image came from a local file.
#
# Packages:   datasets 5.2.0, Pillow 13.0.0, NumPy 2.4.6.
# Expected:   The guide to `map` says that the column which the function returns replaces the old one. Images drawn on,
#             pasted into or shrunk in the function are what the new dataset holds.
# Happens:    An image that Pillow opened from a path remembers that path through every edit made in place
#             (`ImageDraw`, `paste`, `putpixel`, `thumbnail`). datasets stores such an image as its path: the new
#             dataset reads the old file again. The same function works on images that are stored as bytes, so a test
#             on a dataset from the Hub does not show it.
# Hurts:      Medicine above all: names and dates that were blacked out of scans are back in the dataset that is trained
#             on or uploaded. Also masks of watermarks, occlusion tests, and thumbnails made to save memory.
# Avoid:      Return another image: `image = example["image"].copy()` before the edit. Look at one image of the result.
#
# Observed, mean of an image of 200 that is painted black in the function:
#   images of local files:              200.0   (thumbnail to 16 pixels: still 64)
#   images of local files, copied:        0.0
#   images stored as bytes:               0.0
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" datasets==5.2.0 pillow==13.0.0 numpy==2.4.6

python - <<'PYTHON'
from pathlib import Path

import datasets
import numpy as np
from PIL import Image, ImageDraw

datasets.disable_progress_bars()
Path("scans/sick").mkdir(parents=True)
Image.new("L", (64, 64), 200).save("scans/sick/one.png")
of_files = datasets.load_dataset("imagefolder", data_dir="scans", split="train", drop_labels=True)
of_bytes = datasets.Dataset.from_dict(
    {"image": [{"bytes": Path("scans/sick/one.png").read_bytes(), "path": None}]},
    features=datasets.Features({"image": datasets.Image()}),
)


def blackened(image):
    ImageDraw.Draw(image).rectangle((0, 0, *image.size), fill=0)
    return {"image": image}


def shrunk(example):
    example["image"].thumbnail((16, 16))
    return {"image": example["image"]}


def mean(mapped):
    return np.asarray(mapped[0]["image"]).mean()


lost = mean(of_files.map(lambda example: blackened(example["image"])))
width = of_files.map(shrunk)[0]["image"].width
copied = mean(of_files.map(lambda example: blackened(example["image"].copy())))
stored = mean(of_bytes.map(lambda example: blackened(example["image"])))
print(f"images of local files: mean {lost}, width of a thumbnail {width}")
print(f"images of local files, copied before: mean {copied}")
print(f"images stored as bytes: mean {stored}")
assert (lost, width, copied, stored) == (200, 64, 0, 0)
PYTHON
