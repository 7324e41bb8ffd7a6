"""Whether what a batch holds can be trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from vecaf_hf.data.indexed import POOL_INDEX
from vecaf_hf.data.labels import is_ignored, one_per_sample
from vecaf_hf.data.ledger import LISTED
from vecaf_hf.printable import listed
from vecaf_hf.selection.candidates import Candidates

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchCheck:
    """Raises a ValueError for a batch that cannot be trained on.

    Args:
        label_name: The batch's key for the labels; "" for a model that takes none.
        num_classes: C, where each sample has one class; None where that is not known.
        columns: Those of the dataset, for the message.
        values: Whether the model's inputs are looked at too.
    """

    label_name: str
    num_classes: int | None
    columns: Sequence[str]
    values: bool

    def __call__(self, batch: Mapping[str, Any]) -> None:
        check_labels(batch, self.label_name, self.num_classes, self.columns)
        if self.values:
            check_values(batch, self.label_name)


def check_labels(batch: Mapping[str, Any], label_name: str, num_classes: int | None, columns: Sequence[str]) -> None:
    """Raise a ValueError unless every sample of a batch has a label that is a class.

    Args:
        batch: As the collator made it, with POOL_INDEX.
        label_name: Its key for the labels; "" for a model that takes none.
        num_classes: C, where each sample has one class; None where that is not known.
        columns: Those of the dataset, for the message.
    """
    indices, labels = batch[POOL_INDEX], batch.get(label_name)
    if labels is None and label_name:
        keys = ", ".join(key for key in batch if key != POOL_INDEX)
        there = f" and the dataset's columns are {listed(columns)}" if columns else ""
        raise ValueError(
            f"the collator's batches have no {label_name!r} (they have {keys}{there}): selection needs labels; rename "
            "the column of labels, or set remove_unused_columns=False where it was left out"
        )
    if not isinstance(labels, Tensor):
        return
    labels = one_per_sample(labels)
    if num_classes is not None and labels.dim() == 1:
        # Before the forward pass: an accelerator would abort the process.
        check_range(labels, indices, num_classes)


def check_values(batch: Mapping[str, Any], label_name: str) -> None:
    """Raise a ValueError if an input of the model holds a NaN; a mask may hold infinities, and labels have gaps."""
    indices = batch[POOL_INDEX]
    for name, values in batch.items():
        if name == label_name or not isinstance(values, Tensor) or not values.is_floating_point():
            continue
        # A sum is NaN where a value is: one pass over the values, unless something is wrong.
        if values.shape[:1] == indices.shape and values.sum().isnan():
            bad = values.isnan().reshape(len(indices), -1).any(dim=1)
            if bad.any():
                raise ValueError(
                    f"{name} of sample {int(indices[bad][0])} is NaN ({int(bad.sum())} such samples in the batch): "
                    "check this sample's image and transform"
                )


def check_range(labels: Tensor, indices: Tensor, num_classes: int, advice: str = "") -> None:
    """Raise a ValueError that names the first of these samples whose label is no class, and none that is ignored.

    Args:
        labels: Class of each sample. LongTensor [n].
        indices: Their positions in the pool. LongTensor [n].
        num_classes: C.
        advice: What else may mend it.
    """
    if labels.is_floating_point():
        row = int((~labels.isfinite()).int().argmax())
        raise ValueError(
            f"the label of sample {int(indices[row])} is {float(labels[row]):g} ({labels.dtype}), and the model's "
            f"{num_classes} classes are whole numbers, 0 to {num_classes - 1}: mend what is missing, or cast the labels"
        )
    wrong = ((labels < 0) | (labels >= num_classes)) & ~is_ignored(labels)
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"the label of sample {int(indices[row])} is {int(labels[row])}, and the model has {num_classes} classes "
            f"(0 to {num_classes - 1}; {int(wrong.sum())} such samples): mend the labels, or load the model with "
            f"num_labels set to their number{advice}"
        )


def check_classes(labels: Tensor, ignored: Tensor, class_names: Sequence[str], num_classes: int) -> None:
    """Raise a ValueError if a label of a pool is no class of the model; warn of classes that no sample has.

    Args:
        labels: LongTensor [N].
        ignored: Which samples training ignores. BoolTensor [N].
        class_names: Of the model, where it names them.
        num_classes: C.
    """
    advice = "; or set label_column='none' if a transform makes other labels of these"
    check_range(labels, torch.arange(len(labels)), num_classes, advice)
    if len(class_names) < 2:
        return
    absent = torch.bincount(labels[~ignored], minlength=len(class_names)) == 0
    if absent.any():
        names = [class_names[index] for index in absent.nonzero().squeeze(1).tolist()]
        logger.warning("no sample of the pool has the class %s: the model will not learn it", listed(names, LISTED))


def check_same_classes(labels: Tensor | None, scored: Candidates) -> None:
    """Raise a ValueError if the batches of these samples have other classes than the label column. LongTensor [N]."""
    if labels is None or scored.classes is None:
        return
    differing = (labels[scored.indices] != scored.classes).nonzero().squeeze(1)
    if len(differing):
        index = int(scored.indices[differing[0]])
        raise ValueError(
            f"the label column gives sample {index} class {int(labels[index])}, and the collator's batch "
            f"class {int(scored.classes[differing[0]])}: set label_column to the column that the model trains on, "
            "or to 'none' if a transform makes the labels"
        )


def check_map_style(name: str, samples: Any) -> None:
    """Raise a ValueError unless samples can be asked for by position."""
    if isinstance(samples, Mapping):
        splits = ", ".join(map(str, samples))
        raise ValueError(
            f"{name} is a {type(samples).__name__} of {splits}: pass one split, such as "
            f"{name}=data[{next(iter(samples), 'train')!r}]"
        )
    if isinstance(samples, (IterableDataset, datasets.IterableDataset)) or not (
        hasattr(samples, "__getitem__") and hasattr(samples, "__len__")
    ):
        raise ValueError(
            f"{name} is iterable only; selection needs samples by position: a map-style dataset (with len and "
            "[index]), or a datasets.IterableDataset of shards, such as IterableDataset.from_generator makes of yours"
        )
