#!/usr/bin/env bash
# The same dataset gives turned photos in datasets, and photos on their side in timm and torchvision.
#
# Packages:   timm 1.0.31, torchvision 0.29.1, datasets 5.2.0, Pillow 13.0.0, torch 2.14.1.
# Expected:   timm reads a dataset of the Hub by `hfds/NAME`, through datasets. Its images are those which datasets gives.
# Happens:    datasets turns a photo by its EXIF orientation when it decodes, timm takes the stored bytes and opens them
#             itself, and turns nothing; so does torchvision's ImageFolder. Nothing warns, and nothing differs on
#             images without the tag, as benchmarks have them.
# Hurts:      Whoever collects photos with phones (leaves, skin, shelves, damage) and trains with one reader but scores,
#             selects or serves with the other (transformers' pipelines turn as well): a part of the images is turned by
#             90 degrees in one of them. Boxes and masks fit only one of the two.
# Avoid:      Turn all files once, before all else: `ImageOps.exif_transpose`, then save.
#
# Observed, width x height of a photo of 8x4 pixels with orientation 6, and of one without:
#   datasets:                  4x8, 8x4
#   timm, hfds/ of the same:   8x4, 8x4
#   torchvision:               8x4, 8x4
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" timm==1.0.31 torchvision==0.29.1 datasets==5.2.0 pillow==13.0.0 \
    torch==2.14.1 numpy==2.4.6

python - 2>&1 <<'PYTHON'
from pathlib import Path

from datasets import load_dataset
from PIL import Image
from timm.data import create_dataset
from torchvision.datasets import ImageFolder

for folder in ("leaf", "tree"):
    Path("photos", folder).mkdir(parents=True)
turned = Image.Exif()
turned[0x0112] = 6
Image.new("RGB", (8, 4)).save("photos/leaf/one.jpg", exif=turned)
Image.new("RGB", (8, 4)).save("photos/tree/two.jpg")

by_timm = create_dataset("hfds/photos", "", split="train")
found = {
    "datasets": [image.size for image in load_dataset("photos", split="train")["image"]],
    "timm, hfds/ of the same": [by_timm[place][0].size for place in range(2)],
    "torchvision": [image.size for image, _ in ImageFolder("photos")],
}
for name, sizes in found.items():
    print(f"{name}:", ", ".join(f"{width}x{height}" for width, height in sizes))
assert found == {
    "datasets": [(4, 8), (8, 4)],
    "timm, hfds/ of the same": [(8, 4), (8, 4)],
    "torchvision": [(8, 4), (8, 4)],
}
PYTHON
