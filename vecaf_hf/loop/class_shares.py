"""The classes' shares, of the pool and of what a run trained on, and a head that is taken from these to those."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vecaf_hf.selection import Selection

logger = logging.getLogger(__name__)

# So many times as many samples of the largest class as of the smallest, and a test set like the pool is another one.
UNEQUAL = 1.5


def shares_of(labels: Tensor, classes: int) -> Tensor:
    """Each class's part of the pool, with one sample of each more, so that there is a logarithm. [N] -> float64 [C]."""
    counts = torch.bincount(labels, minlength=classes).double() + 1
    return counts / counts.sum()


def trained_shares(
    selections: Sequence[Selection], steps: Sequence[int], labels: Tensor, classes: int, batch: int
) -> Tensor:
    """Each class's part of what was trained on, by the loops' steps and the samples' weights; one of each more.

    Args:
        selections: Of L loops.
        steps: Of each loop.
        labels: Of the pool. LongTensor [N].
        classes: C.
        batch: Samples in a step.

    Returns:
        float64 [C].
    """
    trained = torch.zeros(classes, dtype=torch.float64)
    for selection, count in zip(selections, steps, strict=True):
        weights = None if selection.weights is None else selection.weights.double()
        selected = torch.bincount(labels[selection.indices], weights, classes).double()
        trained += count * batch * selected / selected.sum()
    trained += 1
    return trained / trained.sum()


def check_correctable(head: nn.Module | None, labels: Tensor | None) -> None:
    """Raise a ValueError if the head cannot be corrected, or the classes are not known."""
    if labels is None:
        raise ValueError("correct_class_shares needs one class per sample, in a column of train_dataset")
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ValueError(
            f"correct_class_shares changes the bias of a linear head, and the head is {type(head).__name__}: name it "
            "by head, or add log(shares of the pool) - log(shares trained on) to the logits yourself"
        )


def correct_head(head: nn.Linear, pool: Tensor, trained: Tensor) -> None:
    """Have the head expect the pool's shares in place of those it was trained on: log(pool) - log(trained) is added to
    its logits (logit adjustment, arXiv 2007.07314). [C], [C]."""
    with torch.no_grad():
        head.bias.add_((pool.log() - trained.log()).to(head.bias))


def tell_of_shares(labels: Tensor) -> None:
    """Say what a selection balanced by class does to the shares of a pool's classes, and which metric that serves."""
    counts = labels.unique(return_counts=True)[1]
    least, most = (float(count) / len(labels) for count in (counts.min(), counts.max()))
    if most > UNEQUAL * least:
        logger.warning(
            "the pool's classes have %.2g %% to %.2g %% of its samples, and the selection gives each as many as far as "
            "it has them: that serves metrics in which classes count alike. Where the test set is like the pool and "
            "accuracy is what counts, set class_balance=0, or correct_class_shares=True",
            100 * least,
            100 * most,
        )
