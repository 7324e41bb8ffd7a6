"""A run tells where its model fails: to its user, in its folder, on its page, in its card; and is none the worse."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from short_runs import short_run
from torch import Tensor, nn

from vecaf_hf import Condition, VeCAFTrainer
from vecaf_hf.cli.main import main
from vecaf_hf.conditions.stored import FOLDER, JSON_FILE, MAP_FILE
from vecaf_hf.inspection import embedding_map

CLASSES, DIMENSION, SAMPLES = 4, 24, 1200
HIDDEN = 60


class Reader(nn.Module):
    """Its embedding is what an image holds, and its head is right of all that is not hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(DIMENSION, CLASSES)
        nn.init.zeros_(self.classifier.bias)
        self.classifier.weight.data = 2 * torch.eye(CLASSES, DIMENSION)
        self.config = SimpleNamespace(
            id2label={0: "dress", 1: "coat", 2: "bag", 3: "shoe"}, label2id={}, problem_type=None, model_type="reader"
        )

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.classifier(pixel_values)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def images(seed: int, says: bool = True) -> datasets.Dataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(SAMPLES) % CLASSES
    values = torch.randn(SAMPLES, DIMENSION, generator=generator)
    values[torch.arange(SAMPLES), labels] += 3
    hidden = torch.zeros(SAMPLES, dtype=torch.bool)
    hidden[torch.randperm(SAMPLES, generator=generator)[:HIDDEN]] = True
    rows = hidden.nonzero()[:, 0]
    values[rows, CLASSES + 3] += 6
    values[rows, labels[rows]] -= 2.5
    values[rows, (labels[rows] + 1) % CLASSES] += 2.5
    pictures = [Image.fromarray(np.full((8, 8, 3), 200 if one else 40, dtype=np.uint8)) for one in hidden.tolist()]
    captions = ["a photo, in snow" if one and says else "a photo of it" for one in hidden.tolist()]
    columns = {"image": pictures, "pixel_values": values.tolist(), "labels": labels.tolist(), "caption": captions}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def hidden_of(dataset: datasets.Dataset) -> set[int]:
    return {index for index, image in enumerate(dataset["image"]) if image.getpixel((0, 0))[0] > 100}


def run(folder: Path, dataset: datasets.Dataset, **options: Any) -> VeCAFTrainer:
    return short_run(folder, Reader(), dataset, per_device_eval_batch_size=200, **options)


@pytest.fixture(autouse=True)
def by_pca(monkeypatch: pytest.MonkeyPatch) -> None:
    """UMAP takes its time to compile."""
    monkeypatch.setattr(embedding_map, "find_spec", lambda name: None)


def test_found_named_and_shown(tmp_path: Path) -> None:
    dataset = images(0)
    trainer = run(tmp_path / "run", dataset)
    trainer.train()
    before = [selection.indices.tolist() for selection in trainer.selection_history]
    first, *_ = trainer.conditions()
    assert isinstance(first, Condition) and set(first.members[:10]) <= hidden_of(dataset)
    assert (first.name, first.named_by) == ("in snow", "captions") and "in snow" in first.captions[0]
    assert first.accuracy < 0.5 < first.class_accuracy and sum(first.classes.values()) == len(first.members)
    assert len(first.by_loop) == 2 and all(part is not None and part < 0.5 for part in first.by_loop)
    assert [selection.indices.tolist() for selection in trainer.selection_history] == before
    held = json.loads((tmp_path / "run" / FOLDER / JSON_FILE).read_text())
    assert Condition.from_json({name: value for name, value in held[0].items() if name != "images"}) == first
    assert (tmp_path / "run" / FOLDER / MAP_FILE).is_file()
    # The card and the report, which loads no model.
    trainer.save_state()
    trainer.create_model_card()
    assert "### Where it fails" in (tmp_path / "run" / "README.md").read_text()
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "Where it fails" in page and "in snow" in page


def test_an_earlier_runs_conditions_are_not_those_of_the_next(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run", images(0))
    trainer.train()
    assert trainer.conditions() and trainer.report.failing
    trainer.train()
    assert trainer.report.failing is None


def test_another_dataset_and_no_caption_that_says_it(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run", images(0))
    other = images(1, says=False)
    state = {name: values.clone() for name, values in trainer.model.state_dict().items()}
    first, *_ = trainer.conditions(other, save=False)
    assert set(first.members[:10]) <= hidden_of(other)
    assert (first.name, first.named_by, first.title) == ("", "", "no name found") and len(first.captions) == 3
    assert first.by_loop == () and not (tmp_path / "run" / FOLDER).exists()
    assert all(torch.equal(values, state[name]) for name, values in trainer.model.state_dict().items())


@pytest.mark.parametrize("options", [{"strategy": "balanced", "rescore": "sampled"}, {"rescore": "proxy"}], ids=str)
def test_where_nothing_is_scored_by_the_model_a_dataset_is_asked_for(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = run(tmp_path / "run", images(0), **options)
    trainer.train()
    with pytest.raises(ValueError, match="give a dataset"):
        trainer.conditions()
