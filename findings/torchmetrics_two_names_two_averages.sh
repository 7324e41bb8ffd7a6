#!/usr/bin/env bash
# torchmetrics' `Accuracy(task="multiclass")` makes a `MulticlassAccuracy`, and gives another number than that class does.
#
# Package:    torchmetrics 1.9.0, torch 2.14.1.
# Expected:   One metric by two names: the first is documented as a wrapper that returns the second.
# Happens:    Their defaults differ. The wrapper averages over samples, the class itself over classes; so do the functions
#             `accuracy` and `multiclass_accuracy`, and F1, precision and recall by both names.
# Hurts:      Whoever compares a script with another one, or changes the import: where classes are unbalanced, plain
#             accuracy becomes the mean of the classes' recalls. On balanced test sets nobody notices.
# Avoid:      Say `average="micro"` or `average="macro"` always.
#
# Observed, 90, 5 and 5 samples of three classes, all taken for the first:
#   Accuracy 0.90, MulticlassAccuracy 0.33; F1Score 0.90, MulticlassF1Score 0.32; functions the same
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" torchmetrics==1.9.0 torch==2.14.1

python - <<'PYTHON'
import torch
from torchmetrics import Accuracy, F1Score
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.functional import accuracy
from torchmetrics.functional.classification import multiclass_accuracy

labels = torch.tensor([0] * 90 + [1] * 5 + [2] * 5)
predicted = torch.zeros_like(labels)
wrapped = {"task": "multiclass", "num_classes": 3}
found = {
    "Accuracy": Accuracy(**wrapped)(predicted, labels),
    "MulticlassAccuracy": MulticlassAccuracy(num_classes=3)(predicted, labels),
    "accuracy": accuracy(predicted, labels, **wrapped),
    "multiclass_accuracy": multiclass_accuracy(predicted, labels, num_classes=3),
    "F1Score": F1Score(**wrapped)(predicted, labels),
    "MulticlassF1Score": MulticlassF1Score(num_classes=3)(predicted, labels),
}
found = {name: round(float(value), 2) for name, value in found.items()}
print(found)
assert isinstance(Accuracy(**wrapped), MulticlassAccuracy)
assert list(found.values()) == [0.90, 0.33, 0.90, 0.33, 0.90, 0.32]
PYTHON
