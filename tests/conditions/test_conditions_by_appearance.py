"""How images look tells conditions that no embedding tells: of any model, at no change to what the run selects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from short_runs import short_run
from test_conditions_found import scored
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from vecaf_hf import VeCAFArguments, VeCAFTrainer
from vecaf_hf.conditions.finding import find_groups
from vecaf_hf.loop.remembered import Remembered
from vecaf_hf.scoring import scorer
from vecaf_hf.scoring.appearance import appearance

SIZE, SAMPLES, HIDDEN = 16, 480, 40


def pictures(seed: int) -> Tensor:
    """Soft blobs; the first HIDDEN of them in fog."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.nn.functional.interpolate(torch.randn(SAMPLES, 3, 4, 4, generator=generator), SIZE, mode="bilinear")
    images[:HIDDEN] = 0.3 * images[:HIDDEN] + 1.5
    return images


def vit() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=SIZE, patch_size=4, num_labels=2, **sizes))


def resnet() -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    return ResNetForImageClassification(ResNetConfig(num_labels=2, layer_type="basic", **sizes))


def failing_in_fog(model: Any, images: Tensor) -> datasets.Dataset:
    """The images, labelled as the model, which is made sure of itself, sees them; but for those in fog."""
    model.eval()
    head = model.classifier if isinstance(model.classifier, torch.nn.Linear) else model.classifier[-1]
    with torch.no_grad():
        head.weight.mul_(50)
        margins = model(pixel_values=images).logits.diff(dim=1)[:, 0]
        others = margins[HIDDEN:].median()
        head.bias[1] -= others
    labels = (margins > others).long()
    labels[:HIDDEN] = (margins[:HIDDEN] <= others).long()
    return datasets.Dataset.from_dict({"pixel_values": images.tolist(), "labels": labels.tolist()}).with_format("torch")


def trainer_of(folder: Path, model: Any, dataset: datasets.Dataset) -> VeCAFTrainer:
    return short_run(folder, model, dataset, per_device_eval_batch_size=64)


@pytest.mark.parametrize("make", [vit, resnet])
def test_a_condition_is_found_by_its_look(tmp_path: Path, make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    trainer = trainer_of(tmp_path, model, failing_in_fog(model, pictures(0)))
    trainer.train()
    first, *_ = trainer.conditions(save=False)
    assert all(index < HIDDEN for index in first.members[:10]) and len(first.members) > HIDDEN // 2
    assert first.accuracy < first.class_accuracy and first.loss > first.class_loss


def test_a_run_is_the_same_with_and_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for look in (True, False):
        torch.manual_seed(0)
        model = vit()
        trainer = trainer_of(tmp_path / str(look), model, failing_in_fog(model, pictures(0)))
        if not look:
            monkeypatch.setattr(scorer, "appearance_in", lambda model, inputs: None)
        trainer.train()
        assert trainer.loop is not None and trainer.loop.selector.remembered.scored is not None
        assert (trainer.loop.selector.remembered.scored.appearance is not None) == look
        runs.append(([one.indices.tolist() for one in trainer.selection_history], model.state_dict()))
    (selected, weights), (again, others) = runs
    assert selected == again and all(torch.equal(values, others[name]) for name, values in weights.items())


def test_where_embeddings_tell_nothing_appearance_does() -> None:
    candidates = scored(0)
    images = torch.randn(len(candidates), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images[:72] *= 0.2
    logits, labels = candidates.given("logits").clone(), candidates.given("labels")
    logits[:72] = logits[:72].roll(1, dims=1)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    failing = replace(candidates, losses=losses, logits=logits)
    assert find_groups(failing) == []
    first, *_ = find_groups(replace(failing, appearance=appearance(images)))
    assert (first.members - 100 < 72).float().mean() > 0.9
    # Nor are images that all look the same.
    assert find_groups(replace(failing, appearance=torch.zeros(len(candidates), 46))) == []
    # It is no condition where samples fail as all others do.
    assert find_groups(replace(candidates, appearance=appearance(images))) == []


def test_appearance_is_of_each_image_alone_and_always_finite() -> None:
    images = pictures(1)[:6]
    assert torch.equal(appearance(images)[3:], appearance(images[3:])) and appearance(images).shape == (6, 46)
    for strange in (torch.zeros(2, 1, 2, 2), torch.full((2, 3, 5, 7), torch.nan), torch.full((1, 4, 9, 3), torch.inf)):
        assert appearance(strange).isfinite().all()


def test_what_is_remembered_is_no_copy() -> None:
    candidates = scored(0)
    remembered = Remembered(VeCAFArguments(output_dir="unused", strategy="ods", rescore="full", use_cpu=True))
    remembered.take(0, candidates, None)
    assert remembered.scored is not None and remembered.scored.embeddings is candidates.embeddings
