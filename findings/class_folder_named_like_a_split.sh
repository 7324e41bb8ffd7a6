#!/usr/bin/env bash
# A class folder named `train` or `test_tube` mixes the splits of an image folder.
#
# Packages:   datasets 5.2.0, Pillow 13.0.0.
# Expected:   datasets' guide to image folders says that the folder of an image names its class, and that folders
#             `train` and `test` above the class folders name the splits.
# Happens:    The names of splits are looked for at every depth, also as one word of a longer name. With the layout
#             train/CLASS and test/CLASS, test images of a class `train` come into the train split, and train images of
#             a class `test_tube` come into the test split, where others of that class count twice. Without folders for
#             splits, one such class is all that is loaded: the others are gone, and so is the label column.
#             No warning is given.
# Hurts:      Whoever has a class `train` (CIFAR-100, COCO, Pascal VOC have it), `train_station` or
#             `test_tube` (scenes, remote sensing, laboratories), `val_...`, `dev_...`. A test accuracy with
#             leaked images is too high; a pool to choose training data from holds the test set.
# Avoid:      Say what belongs to each split:
#                 load_dataset("imagefolder", data_dir=..., data_files={"train": "train/**", "test": "test/**"})
#             Afterwards compare the number of rows with the number of files.
#
# Observed:
#   train/ and test/, classes bus and train, 3 images each:     train 9 rows (3 of them from test/), test 6
#   train/ and test/, classes beaker and test_tube:             train 6, test 12 rows (3 from train/, 3 twice)
#   no split folders, classes airport, bridge, train_station:   train 3 rows of 9, columns ['image']
#   the first layout with data_files:                           train 6 rows (0 from test/), test 6
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" datasets==5.2.0 pillow==13.0.0

python - <<'PYTHON'
from pathlib import Path

import datasets
from PIL import Image


def made(root, folders):
    for folder in folders:
        place = Path(root, folder)
        place.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (4, 4)).save(place / f"{number}.png")
    return root


def loaded(root, **options):
    found = datasets.load_dataset("imagefolder", data_dir=root, **options)
    found = found.cast_column("image", datasets.Image(decode=False))
    files = {
        split: [Path(row["image"]["path"]).relative_to(Path(root).resolve()).as_posix() for row in rows]
        for split, rows in found.items()
    }
    for split, paths in files.items():
        elsewhere = sum(not path.startswith(f"{split}/") for path in paths)
        twice = len(paths) - len(set(paths))
        print(f"  {split}: {len(paths)} rows, {elsewhere} from elsewhere, {twice} twice, {found[split].column_names}")
    return found, files


print("train/ and test/, classes bus and train, 3 images each:")
vehicles = made("vehicles", ["train/bus", "train/train", "test/bus", "test/train"])
_, files = loaded(vehicles)
assert len(files["train"]) == 9 and len(files["test"]) == 6
assert sum(path.startswith("test/train/") for path in files["train"]) == 3

print("train/ and test/, classes beaker and test_tube:")
_, files = loaded(made("glass", ["train/beaker", "train/test_tube", "test/beaker", "test/test_tube"]))
assert len(files["train"]) == 6 and len(files["test"]) == 12
assert sum(path.startswith("train/test_tube/") for path in files["test"]) == 3
assert len(set(files["test"])) == 9

print("no split folders, classes airport, bridge, train_station:")
found, files = loaded(made("scenes", ["airport", "bridge", "train_station"]))
assert list(files) == ["train"] and len(files["train"]) == 3
assert found["train"].column_names == ["image"]

print("the first layout with data_files:")
_, files = loaded(vehicles, data_files={"train": "train/**", "test": "test/**"})
assert len(files["train"]) == len(files["test"]) == 6
assert all(path.startswith("train/") for path in files["train"])
PYTHON
