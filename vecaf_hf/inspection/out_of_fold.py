"""What a linear model that has not seen a sample says of it: labels that look wrong, samples on a boundary.

The model's own head is fresh before training, and its confidence says nothing: a logistic regression on the embeddings,
fitted on the other folds, stands in for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits
from torch import Tensor

from vecaf_hf.selection.candidates import evenly_spaced

FOLDS = 5
# Most samples that are looked at: the folds' fits grow with them.
MOST_SAMPLES = 5000
MAX_ITERATIONS = 300
# Weak enough to tell classes apart and strong enough for a confidence that means something: with a tenth of 3,000
# Fashion-MNIST labels replaced, nine of ten suspicious ones were; with ten times this, two of three.
INVERSE_PENALTY = 10.0
# Probability of another class from which a label is suspicious. The page is to name what can be believed: with a tenth
# of 3,000 Fashion-MNIST labels replaced, 85 % of these are (a fifth of all that were); of those that cleanlab 2.9
# (find_label_issues) finds by the same probabilities, 45 % (nine tenths of all); with a fiftieth replaced, 47 and 13 %.
CONFIDENT = 0.9
# Part of the samples, those with the smallest margins, that lie on a boundary.
BOUNDARY = 0.1
# Suspicious labels that are listed, the largest losses first.
LISTED_LABELS = 12


@dataclass(frozen=True)
class OutOfFold:
    """Probabilities by folds that a sample is not in.

    Args:
        rows: Samples that were looked at. LongTensor [n].
        classes: Labels that the columns stand for, rising. LongTensor [C].
        labels: Column of each sample's own label. LongTensor [n].
        probabilities: [n, C].
    """

    rows: Tensor
    classes: Tensor
    labels: Tensor
    probabilities: Tensor

    @property
    def losses(self) -> Tensor:
        """Cross entropy. [n]."""
        own = self.probabilities.gather(1, self.labels[:, None])[:, 0]
        return -own.clamp(min=torch.finfo(own.dtype).tiny).log()

    @property
    def on_boundary(self) -> Tensor:
        """Whether a sample's two likeliest classes are nearly as likely: the BOUNDARY smallest margins. Bool [n]."""
        top = self.probabilities.topk(2, dim=1).values
        count = max(1, round(BOUNDARY * len(top)))
        smallest = (top[:, 0] - top[:, 1]).argsort(stable=True)[:count]
        return torch.zeros(len(top), dtype=torch.bool).index_fill_(0, smallest, True)


@dataclass(frozen=True)
class SuspiciousLabel:
    """A sample whose label another class contradicts.

    Args:
        index: Position in the pool.
        label: Its class.
        other: The class that it looks like.
        confidence: Probability of that class.
        loss: Of its label.
        selected: Whether the selection has it.
    """

    index: int
    label: int
    other: int
    confidence: float
    loss: float
    selected: bool


def out_of_fold(embeddings: Tensor, labels: Tensor | None, seed: int) -> OutOfFold | None:
    """Logistic regressions on `FOLDS` parts of the samples, each asked for the part that it has not seen.

    Args:
        embeddings: [M, d].
        labels: LongTensor [M], or None where samples have no single class.
        seed: Deals the folds out.

    Returns:
        None where there are not two classes with a sample for every fold; the samples of smaller classes are left out.
    """
    if labels is None:
        return None
    classes, columns, counts = labels.unique(return_inverse=True, return_counts=True)
    rows = (counts[columns] >= FOLDS).nonzero()[:, 0]
    rows = rows[evenly_spaced(len(rows), MOST_SAMPLES)] if len(rows) else rows
    classes, columns, counts = labels[rows].unique(return_inverse=True, return_counts=True)
    if len(classes) < 2 or int(counts.min()) < FOLDS:
        kept = counts[columns] >= FOLDS if len(rows) else torch.zeros(0, dtype=torch.bool)
        rows = rows[kept]
        classes, columns = labels[rows].unique(return_inverse=True)
    if len(classes) < 2:
        return None
    found = embeddings[rows].float()
    # Length one in the mean, in any model: the penalty means the same then.
    found = found - found.mean(dim=0)
    found = found / found.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with threadpool_limits(1, user_api="blas"):
        probabilities = cross_val_predict(
            LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITERATIONS, tol=1e-3),
            found.numpy(),
            columns.numpy(),
            cv=folds,
            method="predict_proba",
        )
    return OutOfFold(rows, classes, columns, torch.as_tensor(probabilities, dtype=torch.float32))


def suspicious_labels(seen: OutOfFold, indices: Tensor, selected: Tensor) -> tuple[SuspiciousLabel, ...]:
    """Samples that look like another class with at least CONFIDENT probability, the largest losses first.

    Args:
        seen: What the folds say.
        indices: Position of each sample in the pool. LongTensor [M].
        selected: Whether it is selected. Bool [M].
    """
    confidence, likeliest = seen.probabilities.max(dim=1)
    wrong = ((likeliest != seen.labels) & (confidence >= CONFIDENT)).nonzero()[:, 0]
    losses = seen.losses
    wrong = wrong[losses[wrong].argsort(descending=True, stable=True)]
    return tuple(
        SuspiciousLabel(
            index=int(indices[seen.rows[row]]),
            label=int(seen.classes[seen.labels[row]]),
            other=int(seen.classes[likeliest[row]]),
            confidence=float(confidence[row]),
            loss=float(losses[row]),
            selected=bool(selected[seen.rows[row]]),
        )
        for row in wrong.tolist()
    )
