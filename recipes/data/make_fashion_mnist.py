"""Write the embedded Fashion-MNIST subset: 6,000 + 1,000 images of the training set, 1,000 of the test set.

    python recipes/data/make_fashion_mnist.py FOLDER
    python recipes/data/make_fashion_mnist.py FOLDER --all TARGET

The second form writes all 60,000 + 10,000 images, in their order, into a folder that `--dataset_name` takes. FOLDER
holds the four idx .gz files of https://github.com/zalandoresearch/fashion-mnist (MIT licence), as its "Get the Data"
section names them. The images of the subset are drawn by seed, the same number of each class.

The column `caption` says what an image looks like, by its pixels (`appearance.py`). They are a negative, a black dress
on white paper is bright on black: captions speak of the picture, as a model sees it.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import datasets
import numpy as np
from appearance import describe
from PIL import Image

CLASSES = [
    "T-shirt or top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]
SIZES = {"train": 600, "validation": 100, "test": 100}
SEED = 0


def read(folder: Path, stem: str) -> tuple[np.ndarray, np.ndarray]:
    images = np.frombuffer(gzip.decompress((folder / f"{stem}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / f"{stem}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels


def write(images: np.ndarray, labels: np.ndarray, rows: np.ndarray, target: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES), "caption": datasets.Value("string")}
    )
    columns = {
        "image": [Image.fromarray(images[row]) for row in rows],
        "label": labels[rows].tolist(),
        "caption": [describe(images[row], CLASSES[labels[row]]) for row in rows],
    }
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(target))


def write_subset(folder: Path) -> None:
    generator = np.random.default_rng(SEED)
    target = Path(__file__).parent / "fashion_mnist"
    target.mkdir(exist_ok=True)
    for stem, splits in (("train", ("train", "validation")), ("t10k", ("test",))):
        images, labels = read(folder, stem)
        by_class = [generator.permutation(np.flatnonzero(labels == label)) for label in range(len(CLASSES))]
        start = 0
        for split in splits:
            rows = np.concatenate([members[start : start + SIZES[split]] for members in by_class])
            write(images, labels, generator.permutation(rows), target / f"{split}.parquet")
            start += SIZES[split]


def write_all(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for stem, split in (("train", "train"), ("t10k", "test")):
        images, labels = read(folder, stem)
        write(images, labels, np.arange(len(labels)), target / f"{split}.parquet")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", type=Path, metavar="TARGET")
    given = parser.parse_args()
    if given.all is None:
        write_subset(given.folder)
    else:
        write_all(given.folder, given.all)
