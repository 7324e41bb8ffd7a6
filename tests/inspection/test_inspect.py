"""A look at a run that leaves no trace in it."""

import json
import random

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from vecaf_hf import VeCAFTrainer
from vecaf_hf.augmentation import CEACallback
from vecaf_hf.inspection import embedding_map
from vecaf_hf.inspection.extremes import CENTROID, CLASS_MEAN


@pytest.fixture(autouse=True)
def by_pca(monkeypatch):
    """UMAP takes its time to compile."""
    monkeypatch.setattr(embedding_map, "find_spec", lambda name: None)


def generators() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, keys.tolist(), rest, torch.get_rng_state().tolist()


def weights(trainer) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in trainer.model.state_dict().items()}


def outcome(trainer) -> dict[str, object]:
    """All that a run leaves behind but for its times."""
    history = [
        {name: value for name, value in log.items() if "runtime" not in name and "per_second" not in name}
        for log in trainer.state.log_history
    ]
    # Captions that were encoded once come from the encoder's cache.
    work = {kind: (work.samples, work.flops) for kind, work in trainer.meter.work.items() if kind != "encode_text"}
    return {
        "weights": {name: values.tolist() for name, values in trainer.model.state_dict().items()},
        "history": history,
        "selected": [selection.indices.tolist() for selection in trainer.selection_history],
        "work": work,
    }


RUNS = {
    "ods": {},
    "random": {"strategy": "random"},
    "a learner": {"strategy": "learn_loss", "selection_budget": 8},
    "training's losses": {"strategy": "infobatch"},
    "held-out data": {"strategy": "rho_loss", "selection_budget": 8},
    "evaluation": {"eval_strategy": "epoch", "rescore": "stale"},
}


CASES = [(name, False) for name in RUNS] + [(name, True) for name in ("ods", "random")]


@pytest.mark.parametrize(("case", "augmented"), CASES, ids=[f"{name}, CEA {augmented}" for name, augmented in CASES])
def test_training_after_a_look_is_training_without_one(make_vit, make_trainer, text_encoder, case, augmented):
    def train(looks: bool):
        callbacks = [CEACallback(text_encoder)] if augmented else None
        # Dropout draws from the global generators.
        trainer = make_trainer(make_vit(hidden_dropout_prob=0.1), callbacks, **RUNS[case])
        if looks:
            before, drawn = weights(trainer), generators()
            trainer.inspect()
            assert generators() == drawn
            assert all(torch.equal(values, before[name]) for name, values in trainer.model.state_dict().items())
            assert not any(parameter.grad is not None for parameter in trainer.model.parameters())
        trainer.train()
        return outcome(trainer)

    assert train(looks=False) == train(looks=True)


def test_the_selection_is_the_runs_first_one(make_vit, make_trainer):
    trainer = make_trainer(make_vit())
    inspection = trainer.inspect()
    trainer.train()
    assert list(inspection.selected) == trainer.selection_history[0].indices.tolist()
    assert (inspection.pool_size, inspection.budget, inspection.num_loops) == (120, 20, 2)
    assert inspection.scores and not inspection.is_part
    assert inspection.looked_at == inspection.selected_from == 120


def test_nothing_is_written_unless_asked_for(make_vit, make_trainer, tmp_path):
    make_trainer(make_vit()).inspect()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_part_of_the_pool_is_scored_with_a_budget_in_proportion(make_vit, make_trainer):
    trainer = make_trainer(make_vit())
    inspection = trainer.inspect(samples=60)
    assert inspection.is_part and inspection.looked_at == inspection.selected_from == 60
    assert len(inspection.selected) == 10
    # The budget is still the run's.
    assert inspection.budget == 20
    assert inspection.cost.total["score"].samples == 240


def test_a_strategy_that_scores_nothing_is_scored_for_looking(make_vit, make_trainer):
    trainer = make_trainer(make_vit(), strategy="random")
    inspection = trainer.inspect(samples=50)
    assert not inspection.scores and not inspection.is_part
    assert 50 < inspection.looked_at <= 70
    assert len(inspection.selected) == 20
    assert inspection.losses is not None
    assert inspection.cost.total["score"].samples == 0
    assert inspection.extremes.reference == CLASS_MEAN


def test_samples_stand_beside_their_centroids(make_vit, make_trainer):
    found = make_trainer(make_vit()).inspect().extremes
    assert found.reference == CENTROID
    similarities = [similarity for _, similarity in found.nearest]
    assert similarities == sorted(similarities, reverse=True) and max(similarities) <= 1 + 1e-5
    assert found.farthest[0][1] <= found.farthest[-1][1] <= found.nearest[-1][1]


def test_the_figures_are_json(make_vit, make_trainer, text_encoder, tmp_path):
    trainer = make_trainer(make_vit(), [CEACallback(text_encoder)])
    inspection = trainer.inspect(tmp_path / "page")
    found = json.loads((tmp_path / "page" / "inspection.json").read_text())
    assert found == inspection.to_json()
    assert found["selected"] == list(inspection.selected)
    index = str(inspection.extremes.nearest[0][0])
    assert found["samples"][index]["caption"].startswith("a photo of a ")


def test_a_model_without_classes_is_looked_at_too(make_trainer, fashion, train):
    def transform(batch):
        pixels = train.format["format_kwargs"]["transform"](batch)["pixel_values"]
        return {"pixel_values": pixels, "labels": [[label / 9.0] for label in batch["label"]]}

    def collate(samples):
        return {
            "pixel_values": torch.stack([one["pixel_values"] for one in samples]),
            "labels": torch.tensor([one["labels"] for one in samples]),
        }

    pool = fashion.select(range(120)).with_transform(transform)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=1, problem_type="regression")
    model = ViTForImageClassification(config)
    trainer = make_trainer(
        model, pool=pool, trainer={"data_collator": collate, "eval_dataset": None}, label_column="none"
    )
    inspection = trainer.inspect()
    assert (inspection.classes, inspection.suspicious, inspection.checked_labels) == ((), (), 0)
    assert inspection.map.boundary_shares == {} and inspection.fold_losses is None


@pytest.mark.parametrize(("samples", "message"), [(1, "at least 2"), (2.5, "whole number")])
def test_so_few_samples_are_refused(make_vit, make_trainer, samples, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(make_vit()).inspect(samples=samples)


def test_without_data_there_is_nothing_to_inspect(make_vit, arguments):
    with pytest.raises(ValueError, match="train_dataset"):
        VeCAFTrainer(model=make_vit(), args=arguments()).inspect()
