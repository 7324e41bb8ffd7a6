"""A recipe's splits: their labels as classes, and what is held out of the training split."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value

from vecaf_hf.printable import listed

logger = logging.getLogger(__name__)

ONE_CLASS = "a recipe trains classifiers with one class per image; others are trained from Python, with VeCAFTrainer"


def with_classes(data: DatasetDict, train: str, splits: list[str], label: str) -> DatasetDict:
    """The data with a ClassLabel in the label column: numbers and names are the training split's classes.

    Args:
        data: All splits.
        train: Name of the training split.
        splits: Names of those that are used.
        label: The column.

    Raises:
        ValueError: A label is missing, no class, or one that the training split has not; or there is one class alone.
    """
    feature = data[train].features[label]
    if not isinstance(feature, (ClassLabel, Value)):
        raise ValueError(f"the labels in column {label!r} are {type(feature).__name__.lower()}s: {ONE_CLASS}")
    for split in splits:
        if any(value is None or value != value for value in data[split].unique(label)):
            raise ValueError(f"some samples of the split {split!r} have no {label!r}: mend or remove them")
    if not isinstance(feature, ClassLabel):
        data = _encoded(data, train, splits, label)
    names = data[train].features[label].names
    if len(names) < 2:
        raise ValueError(
            f"all samples of the split {train!r} have the class {names[0]!r}: there is nothing to tell apart"
        )
    return data


def _encoded(data: DatasetDict, train: str, splits: list[str], label: str) -> DatasetDict:
    # By the training split's classes: encoded by itself, a split that lacks a class would number them otherwise.
    kind = data[train].features[label].dtype
    if kind.startswith("float"):
        values = data[train].unique(label)
        if not all(float(value).is_integer() for value in values):
            raise ValueError(f"the labels in column {label!r} are numbers such as {values[0]:g}: {ONE_CLASS}")
        data = data.cast_column(label, Value("int64"))
    data = data.cast_column(label, Value("string"))
    names = sorted(data[train].unique(label))
    if kind.startswith(("int", "uint", "float")):
        names.sort(key=int)  # As text, 10 would come before 2, and the head of a checkpoint would not fit.
    for split in splits:
        if unknown := sorted(set(data[split].unique(label)) - set(names)):
            raise ValueError(
                f"the split {split!r} has the classes {listed(unknown)}, which the split {train!r} has not: nothing "
                "would learn them"
            )
    return DatasetDict({split: data[split].cast_column(label, ClassLabel(names=names)) for split in splits})


def hold_out(train: Dataset, fraction: float, label: str, seed: int) -> tuple[Dataset, Dataset]:
    """Hold a part of a split out, with each class's share where there are enough samples for that.

    Returns:
        The rest, which keeps a sample of each class, and the part.

    Raises:
        ValueError: No class has a sample to spare.
    """
    try:
        halves = train.train_test_split(fraction, seed=seed, stratify_by_column=label)
        return halves["train"], halves["test"]
    except ValueError:
        rows = _spared(np.array(train[label]), max(1, round(fraction * len(train))), seed)
    if not rows:
        raise ValueError(
            f"nothing can be held out of {len(train)} samples, one of each class: add samples, or set "
            "validation_fraction and test_fraction to 0"
        )
    logger.warning(
        "%d samples are too few to hold out %g of each class: %d random ones are, of classes that have more",
        len(train),
        fraction,
        len(rows),
    )
    return train.select([row for row in range(len(train)) if row not in rows]), train.select(sorted(rows))


def _spared(labels: np.ndarray[Any, Any], count: int, seed: int) -> set[int]:
    left, rows = np.bincount(labels), set[int]()
    for row in np.random.default_rng(seed).permutation(len(labels)).tolist():
        if len(rows) < count and left[labels[row]] > 1:
            left[labels[row]] -= 1
            rows.add(row)
    return rows
