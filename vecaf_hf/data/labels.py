"""What labels say: one class for each sample, parts of several, or nothing."""

from __future__ import annotations

import torch
from torch import Tensor

# torch's cross entropy ignores it (`ignore_index`), and so do transformers' losses.
IGNORED = -100


def one_per_sample(labels: Tensor) -> Tensor:
    """Whole numbers [n, 1] as [n]; other labels as they are."""
    is_column = labels.dim() == 2 and labels.shape[1] == 1 and not labels.is_floating_point()
    return labels[:, 0] if is_column else labels


def is_ignored(labels: Tensor) -> Tensor:
    """Whether training ignores each sample's label; none of labels that are no classes. BoolTensor [n]."""
    labels = one_per_sample(labels)
    if labels.dim() != 1 or labels.is_floating_point():
        return labels.new_zeros(len(labels), dtype=torch.bool)
    return labels == IGNORED


def is_soft(labels: Tensor) -> bool:
    """Whether labels give each sample parts of several classes, or all of one: [n, C], rows that sum to one."""
    if labels.dim() != 2 or labels.shape[1] < 2 or not labels.is_floating_point():
        return False
    sums = labels.sum(dim=1)
    return bool((labels >= 0).all() and ((sums - 1).abs() < 1e-3).all())


def described(labels: Tensor) -> str:
    """What labels that are no classes are, for messages."""
    soft = ", parts of classes (give a scoring_collator if the collator mixes samples)" if is_soft(labels) else ""
    return f"{labels.dtype} {list(labels.shape)}{soft}"
