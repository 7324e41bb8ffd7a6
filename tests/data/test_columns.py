"""Labels and columns without loading samples."""

import datasets
import pytest
import torch
from datasets import ClassLabel, Features, Image, Value
from every_case import every_case

from vecaf_hf.data.columns import find_label_column, read_column, read_groups, read_labels


def dataset_of(**columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def never(_):
    raise AssertionError("the transform was called")


def classes_and(*, second: bool = False) -> datasets.Dataset:
    features = Features({"kind": ClassLabel(names=["a", "b"]), "text": Value("string")})
    columns = {"kind": [1, 0], "text": ["x", "y"]}
    if second:
        features["other"] = ClassLabel(names=["c", "d"])
        columns["other"] = [0, 0]
    return datasets.Dataset.from_dict(columns, features=features)


@every_case("change", [lambda d: d, lambda d: d.with_transform(never), lambda d: d.with_format("torch")])
def test_a_column_is_read_raw(change):
    features = Features({"image": Image(), "label": Value("int64")})
    broken = [{"bytes": b"no image", "path": None}] * 3
    dataset = datasets.Dataset.from_dict({"image": broken, "label": [2, 0, 1]}, features=features)
    assert read_column(change(dataset), "label") == [2, 0, 1]
    assert read_labels(change(dataset)).tolist() == [2, 0, 1]


def test_a_column_that_is_not_there():
    with pytest.raises(ValueError, match="no column 'z'; its columns are x, y"):
        read_column(dataset_of(x=[1], y=[2]), "z")
    with pytest.raises(ValueError, match="label_column is 'z', and the dataset's columns are x, y"):
        find_label_column(dataset_of(x=[1], y=[2]), "z")


@every_case("name", ["labels", "label", "label_ids"])
def test_usual_names_are_found(name):
    assert find_label_column(dataset_of(image=[1], **{name: [0]})) == name


def test_the_given_name_goes_before_a_usual_one_and_that_before_a_class():
    dataset = classes_and().add_column("label", [5, 6])
    assert find_label_column(dataset, "text") == "text"
    assert find_label_column(dataset) == "label"
    assert read_labels(dataset, "kind").tolist() == [1, 0]


def test_the_only_class_label_is_found_but_not_one_of_two():
    assert find_label_column(classes_and()) == "kind"
    assert read_labels(classes_and()).tolist() == [1, 0]
    assert find_label_column(classes_and(second=True)) is None
    assert read_labels(classes_and(second=True)) is None


@every_case(
    "targets", [[2, 0, 1], (2, 0, 1), torch.tensor([2, 0, 1], dtype=torch.int32), torch.tensor([2, 0, 1]).numpy()]
)
def test_torchvisions_targets(targets):
    class Vision(torch.utils.data.Dataset):
        def __len__(self):
            return 3

    pool = Vision()
    pool.targets = targets
    labels = read_labels(pool)
    assert labels.tolist() == [2, 0, 1] and labels.dtype == torch.long
    assert find_label_column(pool) is None
    with pytest.raises(ValueError, match="label_column is 'label', and the dataset is a Vision without columns"):
        find_label_column(pool, "label")


def test_truth_values_are_two_classes():
    labels = read_labels(dataset_of(label=[True, False]))
    assert labels.tolist() == [1, 0] and labels.dtype == torch.long


@every_case(
    "values",
    [[0.5, 1.0], [[0, 1], [1, 1]], [[0], [1, 2]], ["cat", "dog"], [0, None]],
    ids=["regression", "multi-label", "ragged", "names", "missing"],
)
def test_labels_that_are_not_one_class_a_sample_are_none(values):
    assert read_labels(dataset_of(label=values)) is None


def test_a_dataset_without_labels():
    assert read_labels(dataset_of(image=[1])) is None
    assert read_labels([{"labels": 1}]) is None


# --- Groups ---


@every_case("values", [["fog", "", "snow", ""], [7, 0, 9, 0], [2.5, None, 3.5, None]])
def test_groups_are_numbered_and_equal_values_are_one_group(values):
    dataset = dataset_of(group=values).with_transform(never)
    groups = read_groups(dataset, "group")
    assert groups.dtype == torch.long
    assert sorted(set(groups.tolist())) == [0, 1, 2]
    assert groups[1] == groups[3] and len({*groups[:3].tolist()}) == 3
    backwards = read_groups(dataset_of(group=values[::-1]), "group")
    assert backwards.tolist() == groups.tolist()[::-1]


def test_groups_that_are_no_groups():
    with pytest.raises(ValueError, match="group_column is 'z', and the dataset's columns are x, y"):
        read_groups(dataset_of(x=[1], y=[2]), "z")
    with pytest.raises(ValueError, match="group_column is 'x', and the dataset is a list without columns"):
        read_groups([{"x": 1}], "x")
    with pytest.raises(ValueError, match="group_column is 'x', whose values are lists or the like"):
        read_groups(dataset_of(x=[[1], [2]]), "x")
