#!/usr/bin/env bash
# Pictures with a palette are trained on by the numbers of their colours in torchvision.transforms.v2 and some processors.
#
# Packages:   Pillow 13.0.0, datasets 5.2.0, torchvision 0.29.1, transformers 5.23.0, torch 2.14.1.
# Expected:   A PNG of 256 colours or a GIF is a picture like any other: its colours arrive, or there is an error, as
#             with torchvision's older transforms and with the image processors of ViT and ConvNext.
# Happens:    Pillow opens such files in mode `P`, datasets hands them on so, and torchvision and the image processors
#             take the number of each pixel's colour for a grey. A palette lists colours in any order. The older
#             `Normalize` then raises an error, as one channel is not three. That of torchvision.transforms.v2 spreads
#             the one channel to three, and so do the processors of DINOv3 and EfficientNet. Nothing warns.
# Hurts:      Pictures from the web (pngquant, GIF), drawings, maps, icons and screenshots. Transformers' pipeline turns
#             each picture into RGB, so that the finetuned model sees other ones than in training.
# Avoid:      `dataset.cast_column("image", Image(mode="RGB"))`, or `v2.RGB()` before `v2.ToImage()`: after it, v2.RGB
#             takes the numbers for greys as well. torchvision's ImageFolder and timm turn pictures into RGB themselves.
#
# Observed, a red and a blue picture, stored with a palette; their first pixel:
#   torchvision, ToTensor and Normalize:   an error (ViT's and ConvNext's processors too)
#   torchvision.transforms.v2:             [-1, -1, -1] and [-1, -1, -1]
#   DINOv3's processor:                    [-2.12, -2.04, -1.8] and [-2.12, -2.04, -1.8]
#   EfficientNet's processor:              [-2, -2, -2] and [-2, -2, -2]
#   v2.RGB first:                          [1, -1, -1] and [-1, -1, 1]
#   transformers' load_image:              RGB
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" pillow==13.0.0 datasets==5.2.0 torchvision==0.29.1 \
    transformers==5.23.0 torch==2.14.1 numpy==2.4.6

python - 2>&1 <<'PYTHON'
import datasets
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2
from transformers import (
    ConvNextImageProcessor,
    DINOv3ViTImageProcessor,
    EfficientNetImageProcessor,
    ViTImageProcessor,
)
from transformers.image_utils import load_image

NORMAL = ([0.5] * 3, [0.5] * 3)
files = []
for colour in ("red", "blue"):
    for ending in ("png", "gif"):
        files.append(f"{colour}.{ending}")
        Image.new("RGB", (64, 64), colour).quantize(4).save(files[-1])


def of(processor):
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def of_v2(*first):
    numbers = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([*first, v2.ToImage(), v2.Resize(32), numbers, v2.Normalize(*NORMAL)])


def pixel(turn, image):
    try:
        return [round(value, 2) for value in turn(image)[:, 0, 0].tolist()]
    except (RuntimeError, ValueError) as error:
        return type(error).__name__


turns = {
    "torchvision, older": transforms.Compose([transforms.ToTensor(), transforms.Normalize(*NORMAL)]),
    "torchvision, v2": of_v2(),
    "torchvision, v2.RGB first": of_v2(v2.RGB()),
    "ViT": of(ViTImageProcessor()),
    "ConvNext": of(ConvNextImageProcessor()),
    "DINOv3": of(DINOv3ViTImageProcessor()),
    "EfficientNet": of(EfficientNetImageProcessor()),
}
raised, alike = "RuntimeError", {"torchvision, v2", "DINOv3", "EfficientNet"}
column = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
in_rgb = column.cast_column("image", datasets.Image(mode="RGB"))
assert all(row["image"].mode == "P" for row in column)
for name, turn in turns.items():
    found = {file: pixel(turn, row["image"]) for file, row in zip(files, column, strict=True)}
    print(f"{name}: red {found['red.png']}, blue {found['blue.png']}")
    assert found["red.gif"] == found["red.png"] and found["blue.gif"] == found["blue.png"]
    if name in alike:
        assert found["red.png"] == found["blue.png"] != raised
    elif name == "torchvision, v2.RGB first":
        assert found["red.png"] == [1, -1, -1] and found["blue.png"] == [-1, -1, 1]
    else:
        assert found["red.png"] == found["blue.png"] == raised
    assert pixel(turn, in_rgb[0]["image"]) != pixel(turn, in_rgb[2]["image"])
loaded = load_image("red.png")
print(f"load_image, which transformers' pipelines use: {loaded.mode}")
assert loaded.mode == "RGB" and loaded.getpixel((0, 0)) == (255, 0, 0)
PYTHON
