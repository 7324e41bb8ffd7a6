"""The classes' shares, of the pool and of what a run trained on, and a head that is taken from these to those."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.scoring.sharded import give_back, whole_copy
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


def check_correctable(head: nn.Module | None, labels: Tensor | None, weighs: bool) -> None:
    """Raise a ValueError if the head cannot be corrected, or what it was trained on is not known by class."""
    if weighs:
        raise ValueError(
            "correct_class_shares and sample_weight_func are both given, and the weights change what the head expects "
            "of the classes: keep one of them"
        )
    if labels is None:
        raise ValueError("correct_class_shares needs one class per sample, in a column of train_dataset")
    if not isinstance(head, nn.Linear) or head.bias is None:
        found = "none was found by name" if head is None else f"the head is {type(head).__name__}"
        raise ValueError(
            f"correct_class_shares changes the bias of a linear head, and {found}: name it by head, or add "
            "log(shares of the pool) - log(shares trained on) to the logits yourself"
        )


class HeadCorrection(TrainerCallback):
    """Has the head expect the pool's shares in place of those it was trained on, when the training ends.

    log(pool) - log(trained) is added to its logits (logit adjustment, arXiv 2007.07314), once the best model is loaded
    and before others are told of the end, who may send the model away. To be the first of the callbacks.

    Args:
        model: Whose head it is.
        head: With a bias.
        shares: (classes, step) -> the pool's, and of what was trained on until that step. [C], [C].
    """

    def __init__(self, model: nn.Module, head: nn.Linear, shares: Callable[[int, int], tuple[Tensor, Tensor]]) -> None:
        self.model, self.head, self.shares = model, head, shares
        self._added: Tensor | None = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        is_best = args.load_best_model_at_end and state.best_model_checkpoint is not None
        step = state.best_global_step if is_best else state.global_step
        pool, trained = self.shares(self.head.out_features, step or state.global_step)
        self._add(pool.log() - trained.log())

    def undo(self) -> None:
        """Before a further training goes on from here."""
        if self._added is not None:
            self._add(-self._added)
            self._added = None

    def _add(self, shift: Tensor) -> None:
        head = whole_copy(self.model, self.head)
        with torch.no_grad():
            head.bias.add_(shift.to(head.bias))
        give_back(self.model, self.head, head)
        self._added = shift


def are_unequal(labels: Tensor) -> bool:
    """Whether the largest class is so much larger than the smallest that a set with equal ones is another one."""
    counts = labels.unique(return_counts=True)[1]
    return bool(len(counts)) and bool(counts.max() > UNEQUAL * counts.min())


def tell_of_shares(labels: Tensor, args: VeCAFArguments) -> None:
    """Say what a selection balanced by class does to the shares of a pool's unequal classes, and which metric that
    serves, unless somebody chose them."""
    if args.class_balance < 1 or args.correct_class_shares or not are_unequal(labels):
        return
    counts = labels.unique(return_counts=True)[1]
    least, most = (float(count) / len(labels) for count in (counts.min(), counts.max()))
    logger.warning(
        "the smallest class is %.1f %% of the pool and the largest %.1f %%; the selection makes them as equal as "
        "it can. That serves balanced accuracy, and may cost accuracy where the test set is like the pool: then leave "
        "out selection_fraction and selection_budget, or set class_balance=0.5 or correct_class_shares=True",
        100 * least,
        100 * most,
    )
