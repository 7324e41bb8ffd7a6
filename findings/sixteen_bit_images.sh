#!/usr/bin/env bash
# Sixteen-bit images: grey ones turn white, coloured ones lose their low byte, arrays wrap, tensors go negative.
#
# Packages:   Pillow 13.0.0, datasets 5.2.0, transformers 5.23.0, torchvision 0.29.1, opencv-python-headless 5.0.0.93.
# Expected:   One image format, one behaviour: values scaled to 8 bits, or an error. `convert` is described as a change
#             of mode, `ToTensor` as giving tensors in [0, 1] for known modes and unscaled ones for others.
# Happens:    Four different things, and only one of them warns:
#             - A grey 16-bit PNG keeps its depth when it is opened (`I;16`), but `convert("RGB")` clips: all above 255
#               is white. The CLIP image processor does that convert by default, and gives one constant image.
#             - A 16-bit PNG in colour is opened as 8 bits, by its high byte alone: 3000 of 10000 is 11 of 255.
#             - datasets stores a colour array of uint16 modulo 256: 300 becomes 44. (This one warns.)
#             - torchvision's ToTensor reads `I;16` as signed: 40000 becomes -25536, unscaled.
# Hurts:      X-rays and CT in PNG (12 bits in 16), microscopy, Sentinel-2 reflectance. A model finetuned on white images
#             still reports the accuracy of the largest class; scores and embeddings of all images are the same, so that
#             a selection by them is random.
#             The clipping is Pillow's issue 3011, of 2018.
# Avoid:      Read with tifffile, OpenCV (`IMREAD_UNCHANGED`) or `numpy.asarray(Image.open(...))` for grey ones, window
#             or scale in floating point, and only then make 8 bits. Print the spread of one processed image.
#
# Observed:
#   grey 0..4095, convert("RGB"):                 94% of pixels are 255
#   grey 1000..4095, CLIPImageProcessor:          spread within each channel 0.0
#   colour 0..3000 as PNG:                        opened as RGB, 12 different values, 11 at most
#   colour array of 300 in datasets:              44
#   grey 40000, ToTensor:                         -25536, torch.int16
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" pillow==13.0.0 datasets==5.2.0 transformers==5.23.0 \
    torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 opencv-python-headless==5.0.0.93

python - 2>&1 <<'PYTHON'
import cv2
import datasets
import numpy as np
from PIL import Image
from torchvision.transforms import ToTensor
from transformers import CLIPImageProcessor

ramp = np.linspace(0, 4095, 256 * 256).reshape(256, 256).astype(np.uint16)
cv2.imwrite("grey.png", ramp)
cv2.imwrite("bright.png", np.maximum(ramp, 1000))
cv2.imwrite("colour.png", np.repeat((ramp * (3000 / 4095)).astype(np.uint16)[:, :, None], 3, axis=2))

grey = Image.open("grey.png")
white = (np.asarray(grey.convert("RGB")) == 255).mean()
print(f'grey 0..4095 ({grey.mode}), convert("RGB"): {white:.0%} of pixels are 255')
assert grey.mode == "I;16" and np.asarray(grey).max() == 4095 and white > 0.9

pixels = CLIPImageProcessor()(Image.open("bright.png"), return_tensors="np")["pixel_values"][0]
spread = np.ptp(pixels, axis=(1, 2)).max()
print(f"grey 1000..4095, CLIPImageProcessor: spread within each channel {spread}")
assert spread < 1e-6

colour = Image.open("colour.png")
values = np.unique(np.asarray(colour))
print(f"colour 0..3000 as PNG: opened as {colour.mode}, {len(values)} different values, {values.max()} at most")
assert colour.mode == "RGB" and len(values) == 12 and values.max() == 11

features = datasets.Features({"image": datasets.Image()})
array = datasets.Dataset.from_dict({"image": [np.full((4, 4, 3), 300, np.uint16)]}, features=features)
wrapped = np.asarray(array[0]["image"])[0, 0, 0]
print(f"colour array of 300 in datasets: {wrapped}")
assert wrapped == 44

tensor = ToTensor()(Image.fromarray(np.full((2, 2), 40000, np.uint16)))
print(f"grey 40000, ToTensor: {tensor[0, 0, 0].item()}, {tensor.dtype}")
assert tensor[0, 0, 0].item() == -25536
PYTHON
