"""Reading labels and captions from a dataset without decoding its images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import torch
from datasets import ClassLabel
from torch import Tensor

from vecaf_hf.data.labels import one_per_sample
from vecaf_hf.printable import listed

logger = logging.getLogger(__name__)

LABEL_COLUMNS = ("labels", "label", "label_ids")


def has_columns(dataset: Any) -> bool:
    """Whether `read_column` can be asked of a dataset."""
    return isinstance(dataset, datasets.Dataset) or hasattr(dataset, "read_column")


def read_column(dataset: Any, column: str) -> list[Any]:
    """A column's raw values, whatever transform or format the dataset has.

    Raises:
        ValueError: There is no such column; the message names those that exist.
    """
    check_column(dataset, column)
    if not isinstance(dataset, datasets.Dataset):
        return dataset.read_column(column)
    return list(dataset.with_format(None).select_columns([column])[column])


def check_column(dataset: Any, column: str) -> None:
    """Raise a ValueError that names the dataset's columns unless this is one of them."""
    if column not in dataset.column_names:
        raise ValueError(f"the dataset has no column {column!r}; its columns are {listed(dataset.column_names)}")


def find_label_column(dataset: Any, name: str | None = None) -> str | None:
    """The label column of a `datasets.Dataset`: the given one, a usual name, or the only ClassLabel feature.

    Raises:
        ValueError: The dataset has no such column, or no columns at all.
    """
    if isinstance(dataset, datasets.Dataset):
        return label_among(dataset.features, name)
    if name is not None and name != getattr(dataset, "label_column", None):
        raise ValueError(
            f"label_column is {name!r}, and the dataset is a {type(dataset).__name__} without columns: leave it "
            "out, labels come from its `targets` or from the collator's batches"
        )
    return None


def label_among(features: Mapping[str, Any], name: str | None = None) -> str | None:
    """The label column among the features of a dataset, as `find_label_column` finds it."""
    if name is not None:
        if name not in features:
            raise ValueError(f"label_column is {name!r}, and the dataset's columns are {listed(features)}")
        return name
    for usual in LABEL_COLUMNS:
        if usual in features:
            return usual
    classes = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    return classes[0] if len(classes) == 1 else None


def read_labels(dataset: Any, column: str | None = None) -> Tensor | None:
    """Class of each sample where it can be had without loading samples. LongTensor [N], or None.

    From the label column of a `datasets.Dataset`, or from `targets` as torchvision's datasets have it, if there are as
    many as samples; column "none" says that neither holds the classes.
    """
    if column == "none":
        return None
    found = find_label_column(dataset, column)
    values = read_column(dataset, found) if found else getattr(dataset, "targets", None)
    if values is None:
        return None
    try:
        # torch asks a Series of pandas for its rows by their labels.
        values = np.array(values) if hasattr(values, "to_numpy") else values
        labels = one_per_sample(torch.as_tensor(values))
    except (TypeError, ValueError, RuntimeError):
        # Names, gaps or lists of several lengths: a transform or the collator makes labels of them.
        return None
    if labels.dim() != 1 or labels.is_floating_point():
        return None
    if len(labels) != len(dataset):
        logger.warning(
            "the dataset has %d `targets` for %d samples: they are ignored, and labels are read from the batches",
            len(labels),
            len(dataset),
        )
        return None
    return labels.long()


def read_groups(dataset: Any, column: str) -> Tensor:
    """A number from 0 on for each sample, the same for equal values of the column. LongTensor [N].

    Raises:
        ValueError: The dataset has no such column, or no columns at all, or a value is a list or the like.
    """
    if not has_columns(dataset):
        raise ValueError(f"group_column is {column!r}, and the dataset is a {type(dataset).__name__} without columns")
    if column not in dataset.column_names:
        raise ValueError(f"group_column is {column!r}, and the dataset's columns are {listed(dataset.column_names)}")
    values = read_column(dataset, column)
    try:
        numbers = {value: number for number, value in enumerate(sorted(set(values), key=repr))}
    except TypeError:
        raise ValueError(
            f"group_column is {column!r}, whose values are lists or the like: a sample has one group"
        ) from None
    return torch.tensor([numbers[value] for value in values], dtype=torch.long)
