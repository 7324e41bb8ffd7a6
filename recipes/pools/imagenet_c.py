"""ImageNet-C (arXiv 1903.12261) as a split to evaluate on, from its folders or from the Hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, load_dataset
from timm.data import ImageNetInfo

from pools.corruptions import check_corruption
from vecaf_hf.data.columns import find_label_column, read_column
from vecaf_hf.printable import listed
from vecaf_hf.reporting.local_paths import is_local_path

logger = logging.getLogger(__name__)

IMAGE, LABEL, SPLIT = "image", "label", "test"
IMAGENET = "imagenet-1k"
# Where the Hub's ILSVRC/imagenet-1k calls a class otherwise than timm does: ImageNet has two of the name crane.
HUB_NAMES = {"n03126707": "crane2"}
# Names that a message lists.
LISTED = 5


def load_imagenet_c(
    name: str, corruption: str, severity: int, class_names: Sequence[str], config: str | None = None
) -> datasets.Dataset:
    """Images under a corruption (`image`), and their classes as the training set numbers them (`label`).

    Images of classes that the training set has not are left out.

    Args:
        name: A folder, or the Hub id of a dataset with such folders in it, of class folders named by WordNet ids:
            `snow/3/n01440764/*.JPEG`, or `weather/snow/3/...` as the published archives have it.
        corruption: One of `pools.corruptions.CORRUPTIONS`.
        severity: 1 to 5.
        class_names: Of the training set, as `class_numbers` knows them.
        config: On the Hub, the configuration that holds this corruption at this severity, in place of a folder.

    Raises:
        ValueError: There is no such folder, it has no class of the training set, or its images and classes cannot be
            told.
    """
    check_corruption(corruption, severity)
    if is_local_path(name):
        folder = find_folder(Path(name), corruption, severity)
        # One split, though its files are named after ImageNet's `val`; and labels also where a single class is left.
        loaded = load_dataset("imagefolder", data_dir=str(folder), data_files={SPLIT: "**"}, drop_labels=False)
    else:
        place = {"data_dir": f"{corruption}/{severity}"} if config is None else {"name": config}
        loaded = load_dataset(name, **place)
    if len(loaded) != 1:
        raise ValueError(f"{name} has the splits {listed(loaded)} where ImageNet-C has one")
    (split,) = loaded.values()
    label = find_label_column(split)
    if IMAGE not in split.column_names or label is None or not isinstance(split.features[label], ClassLabel):
        raise ValueError(
            f"{name} has the columns {listed(split.column_names)} for {corruption} {severity}; it must have {IMAGE!r} "
            "and named classes, as a folder of class folders has"
        )
    return relabelled(split, label, class_names, name).select_columns([IMAGE, LABEL])


def find_folder(root: Path, corruption: str, severity: int) -> Path:
    """`snow/3` in the folder, or in one of those in it.

    Raises:
        ValueError: There is none.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: unpack ImageNet-C there, or give a dataset's Hub id")
    place = Path(corruption, str(severity))
    found = [folder / place for folder in (root, *sorted(root.iterdir())) if (folder / place).is_dir()]
    if not found:
        raise ValueError(f"{root} has no folder {place}, nor has one of those in it: is it the root of ImageNet-C?")
    return found[0]


def relabelled(dataset: datasets.Dataset, label: str, class_names: Sequence[str], name: str) -> datasets.Dataset:
    """The samples of the training set's classes, numbered as there."""
    names = dataset.features[label].names
    numbers = class_numbers(names, class_names)
    if not any(number is not None for number in numbers):
        raise ValueError(
            f"{name} has the classes {listed(names, LISTED)}, and none is among the training set's: "
            f"{listed(class_names, LISTED)}; name these by WordNet id or as ImageNet does ('tench, Tinca tinca'), or "
            f"number all of ImageNet's by their places in the order of the ids, from 0"
        )
    found = np.array([-1 if number is None else number for number in numbers])[read_column(dataset, label)]
    kept = np.flatnonzero(found >= 0)
    if len(kept) < len(found):
        logger.warning("%d images of %s have no class of the training set: left out", len(found) - len(kept), name)
    classes = ClassLabel(names=list(class_names))
    return dataset.select(kept).remove_columns(label).add_column(LABEL, found[kept].tolist(), feature=classes)


def class_numbers(names: Sequence[str], class_names: Sequence[str]) -> list[int | None]:
    """Where the class of each name stands among `class_names`; None where it does not.

    Args:
        names: ImageNet-C's, WordNet ids or any others.
        class_names: Of the training set, in any order: the same names; of WordNet ids what ImageNet calls the classes,
            as timm or the Hub's `ILSVRC/imagenet-1k` spells it; or the numbers of all of ImageNet's classes, which
            count the WordNet ids in their order, from 0.
    """
    imagenet = ImageNetInfo(IMAGENET)
    ids = {one: str(number) for number, one in enumerate(imagenet.label_names())}
    known = {one: number for number, one in enumerate(class_names)}
    numbered = {*known} == {*ids.values()}
    # Two classes have one description: where a training set has that, it is both only if it has all descriptions.
    merged = {*known} >= {imagenet.label_name_to_description(one) for one in ids}

    def number(name: str) -> int | None:
        if name in known or name not in ids:
            return known.get(name)
        if numbered:
            return known[ids[name]]
        described = imagenet.label_name_to_description(name)
        called = HUB_NAMES.get(name, described)
        return known.get(described if merged and called not in known else called)

    return [number(name) for name in names]
