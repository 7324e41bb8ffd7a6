"""Whether what a batch holds can be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vecaf_hf.data.indexed import POOL_INDEX
from vecaf_hf.data.labels import is_ignored, one_per_sample
from vecaf_hf.printable import listed


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
