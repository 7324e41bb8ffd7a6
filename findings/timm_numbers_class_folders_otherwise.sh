#!/usr/bin/env bash
# timm numbers class folders in another order than torchvision and datasets do.
#
# Packages:   timm 1.0.31, torchvision 0.29.1, datasets 5.2.0, Pillow 13.0.0, torch 2.14.1.
# Expected:   timm's guides say to arrange one's images in class folders, as for torchvision's ImageFolder. All three
#             number the classes by the sorted names of their folders, so that labels mean the same.
# Happens:    timm sorts like a person: numbers inside names by their value, capitals like small letters. The others sort
#             by characters: `10` before `2`, `Zebra` before `apple`. Nothing warns, as the number of classes is the same.
# Hurts:      Whoever trains with timm's script and evaluates, selects or serves with datasets, torchvision or
#             transformers (or the other way round) on folders that are numbered without leading zeros (Flowers-102
#             has 1 to 102) or mix capitals. The model's outputs stand for other classes. Names of ImageNet's kind
#             (n01440764) are safe.
# Avoid:      Pad numbers with zeros and use small letters, or give timm the order: `create_dataset(..., class_map={...})`
#             with that of the other library.
#
# Observed:
#   folders 1, 2, 10, apple, Zebra:
#     timm:                  1, 2, 10, apple, Zebra
#     torchvision:           1, 10, 2, Zebra, apple
#     datasets:              1, 10, 2, Zebra, apple
#     timm, class_map:       1, 10, 2, Zebra, apple
#   folders 1 to 102: 11 classes have the same number in timm and torchvision
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" timm==1.0.31 torchvision==0.29.1 datasets==5.2.0 pillow==13.0.0 \
    torch==2.14.1 numpy==2.4.6

python - 2>&1 <<'PYTHON'
from pathlib import Path

from datasets import load_dataset
from PIL import Image
from timm.data import create_dataset
from torchvision.datasets import ImageFolder


def made(root, classes):
    for name in classes:
        Path(root, name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(Path(root, name, "one.png"))
    return root


def of_timm(root, **options):
    numbers = create_dataset("", root, **options).reader.class_to_idx
    return sorted(numbers, key=numbers.get)


def of_torchvision(root):
    return ImageFolder(root).classes


mixed = made("mixed", ["1", "2", "10", "apple", "Zebra"])
human, characters = ["1", "2", "10", "apple", "Zebra"], ["1", "10", "2", "Zebra", "apple"]
found = {
    "timm": of_timm(mixed),
    "torchvision": of_torchvision(mixed),
    "datasets": load_dataset("imagefolder", data_dir=mixed, split="train").features["label"].names,
    "timm, class_map": of_timm(mixed, class_map={name: number for number, name in enumerate(characters)}),
}
for name, classes in found.items():
    print(f"{name}: {', '.join(classes)}")
assert found == {"timm": human, "torchvision": characters, "datasets": characters, "timm, class_map": characters}

flowers = made("flowers", [str(number) for number in range(1, 103)])
same = sum(one == other for one, other in zip(of_timm(flowers), of_torchvision(flowers), strict=True))
print(f"folders 1 to 102: {same} classes have the same number in timm and torchvision")
assert same < 20
PYTHON
