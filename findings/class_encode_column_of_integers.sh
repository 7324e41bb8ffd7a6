#!/usr/bin/env bash
# `class_encode_column` renumbers labels that are integers already, where they are more than ten.
#
# Packages:   datasets 5.2.0.
# Expected:   The reference says that the column is cast to ClassLabel. Labels 0 to 11 stay 0 to 11, with those names.
# Happens:    The values become text first, and text is sorted: 0, 1, 10, 11, 2, ... So label 2 becomes 4, and 10
#             becomes 2. With up to ten classes nothing moves, which hides it in small tests. Nothing warns.
# Hurts:      `train_test_split(stratify_by_column=...)` refuses integers and sends people here. A model that was made for
#             the old numbers (its `id2label`, a list of class names, class weights, a zero-shot prompt list) is then
#             scored against other classes: accuracy of a good model falls to about that share of classes which kept
#             their number. Two datasets encoded apart disagree as soon as one lacks a class.
# Avoid:      `ds.cast_column("label", ClassLabel(names=names))`, which keeps integers.
#
# Observed:
#   train_test_split: Stratifying by column is only supported for ClassLabel column, and column label is Value.
#   labels before:                              [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
#   labels after:                               [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]
#   accuracy of a perfect model of 100 classes: 0.12
#   labels after cast_column:                   [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" datasets==5.2.0

python - <<'PYTHON'
import datasets

datasets.disable_progress_bars()


def encoded(classes):
    return datasets.Dataset.from_dict({"label": list(range(classes))}).class_encode_column("label")


twelve = datasets.Dataset.from_dict({"label": list(range(12))})
after = twelve.class_encode_column("label")
try:
    twelve.train_test_split(stratify_by_column="label")
    raise SystemExit("train_test_split takes integers by now")
except ValueError as error:
    print("train_test_split:", error)
print("labels before:", twelve["label"][:])
print("labels after: ", after["label"][:], "named", after.features["label"].names)
assert after["label"][:] == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]
assert encoded(10)["label"][:] == list(range(10))

accuracy = sum(label == place for place, label in enumerate(encoded(100)["label"])) / 100
print("accuracy of a perfect model of 100 classes:", accuracy)
assert accuracy < 0.2

names = [f"class {number}" for number in range(12)]
cast = twelve.cast_column("label", datasets.ClassLabel(names=names))
print("labels after cast_column:", cast["label"][:])
assert cast["label"][:] == list(range(12))
PYTHON
