"""Whether labels are classes of the model."""

from __future__ import annotations

from torch import Tensor


def check_range(labels: Tensor, indices: Tensor, num_classes: int) -> None:
    """Raise a ValueError that names the first of these samples whose label is no class.

    Args:
        labels: Class of each sample. LongTensor [n].
        indices: Their positions in the pool. LongTensor [n].
        num_classes: C.
    """
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"the label of sample {int(indices[row])} is {int(labels[row])}, and the model has {num_classes} classes "
            f"(0 to {num_classes - 1}; {int(wrong.sum())} such samples): mend the labels, or load the model with "
            "num_labels set to their number"
        )
