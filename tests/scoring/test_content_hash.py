"""Whatever an embedding is made of changes a hash, and nothing else does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from every_case import every_case
from PIL import Image
from torch import nn

from vecaf_hf.scoring.content_hash import batches_hash, dataset_hash, model_hash


class Net(nn.Module):
    def __init__(self, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
        self.head = nn.Linear(5, classes)


def test_the_heads_weights_are_no_part_of_a_models_hash() -> None:
    one, other = Net(), Net()
    nn.init.normal_(other.head.weight)
    assert model_hash(one, one.head) == model_hash(other, other.head)
    assert model_hash(one, nn.Identity()) != model_hash(other, nn.Identity())


@every_case(
    "change",
    [
        lambda net: net.body[0].weight.data[0, 0].add_(1e-6),
        lambda net: net.body[1].running_mean[0].add_(1e-6),
        lambda net: net.body.double(),
        lambda net: setattr(net.body[1], "eps", 1e-3),
        lambda net: net.body.append(nn.ReLU()),
    ],
    ids=["weight", "buffer", "dtype", "setting", "layer"],
)
def test_what_changes_a_models_hash(change: Callable[[Net], Any]) -> None:
    before, net = Net(), Net()
    change(net)
    assert model_hash(before, before.head) != model_hash(net, net.head)


def test_a_models_configuration_counts_but_for_names_and_places(make_vit: Callable[..., Any]) -> None:
    def hashed(**options: Any) -> str:
        model = make_vit(**options)
        return model_hash(model, model.classifier)

    assert hashed() == hashed() == hashed(problem_type="single_label_classification", name_or_path="elsewhere")
    assert hashed() != hashed(layer_norm_eps=1e-3)
    assert hashed() != hashed(hidden_act="relu")
    assert hashed() != hashed(seed=1)


ROWS = {"text": ["a", "b", "c"], "label": [0, 1, 2]}


@every_case(
    "changed",
    [
        {**ROWS, "label": [0, 1, 1]},
        {**ROWS, "text": ["a", "b", ""]},
        {name: values[::-1] for name, values in ROWS.items()},
        {name: values[:2] for name, values in ROWS.items()},
        {"words": ROWS["text"], "label": ROWS["label"]},
    ],
    ids=["number", "text", "order", "length", "name"],
)
def test_what_changes_a_datasets_hash(changed: dict[str, Any]) -> None:
    assert dataset_hash(Dataset.from_dict(ROWS)) != dataset_hash(Dataset.from_dict(changed))


def test_how_a_dataset_came_about_does_not_matter() -> None:
    made = Dataset.from_dict(ROWS)
    selected = Dataset.from_dict({"text": ["x", "a", "b", "c"], "label": [9, 0, 1, 2]}).select([1, 2, 3])
    shown = made.with_transform(lambda batch: 1 / 0)
    joined = datasets.concatenate_datasets([made.select([0]), made.select([1, 2])])
    assert len({dataset_hash(one) for one in (made, selected, shown, joined)}) == 1


@pytest.mark.parametrize("kind", ["image", "text"])
def test_files_count_by_size_and_time(tmp_path: Any, kind: str) -> None:
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path in paths:
        Image.new("L", (4, 4)).save(path)
    made = Dataset.from_dict({"picture": paths})
    if kind == "image":
        made = made.cast_column("picture", datasets.Image())
    before = dataset_hash(made)
    assert before == dataset_hash(made)
    os.utime(paths[1], (0, 0))
    after = dataset_hash(made)
    os.remove(paths[2])
    assert len({before, after, dataset_hash(made)}) == 3


def test_an_image_whose_bytes_are_in_the_row_needs_no_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.png"
    Image.new("L", (4, 4)).save(path)
    held = {"picture": [{"bytes": path.read_bytes(), "path": path.name}]}
    made = Dataset.from_dict(held, features=datasets.Features({"picture": datasets.Image()}))
    monkeypatch.chdir(tmp_path)
    before = dataset_hash(made)
    os.utime(path, (0, 0))
    assert before == dataset_hash(made)


def test_batches() -> None:
    batch = {"pixel_values": torch.zeros(2, 3), "labels": torch.tensor([0, 1]), "names": ["a", "b"]}
    before = batches_hash([batch])
    assert before == batches_hash([dict(reversed(batch.items()))])
    changes = [
        {"pixel_values": torch.tensor([[0, 0, 0], [0, 0, 1e-7]])},
        {"pixel_values": torch.zeros(3, 2)},
        {"pixel_values": torch.zeros(2, 3, dtype=torch.float64)},
        {"names": ["a", "c"]},
    ]
    assert before not in [batches_hash([batch | change]) for change in changes]
