"""Every strategy by its name in a run of two loops, interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from vecaf_hf import VeCAFTrainer
from vecaf_hf.cost import FULL_SIZE
from vecaf_hf.learners import ta_vaal
from vecaf_hf.selection import STRATEGIES, Selection

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]

BUDGET = 6


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published VAE is for a GPU."""
    monkeypatch.setattr(ta_vaal, "CHANNELS", (4, 4, 8, 8))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_selects_the_same(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, tmp_path: Path, strategy: str
) -> None:
    options = {"strategy": strategy, "selection_budget": BUDGET, "max_steps": 4, "learning_rate": 0.01}
    options |= {"group_column": "label"} if strategy == "group_balanced" else {}
    saving = {"save_strategy": "steps", "save_steps": 1}
    pool = train.select(range(80))
    whole = make_trainer(make_vit(), pool=pool, **options, **saving)
    whole.train()
    for loop, selection in enumerate(whole.selection_history):
        if strategy == "infobatch" and loop == 1:
            # Of 16 that have been trained on, about a quarter is gone.
            assert 72 <= len(selection) < 80 and selection.weights is not None
        else:
            takes_all = strategy in ("full", "infobatch") or (strategy == "jtt" and loop == 0)
            assert len(selection) == (80 if takes_all else BUDGET)

    # From the first loop: the resumed run makes the second selection anew, from other weights than a fresh model's.
    resumed = make_trainer(make_vit(1), pool=pool, **options, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    for mine, others in zip(whole.selection_history, resumed.selection_history, strict=True):
        assert torch.equal(mine.indices, others.indices)
        assert (mine.weights is None) == (others.weights is None)
        assert mine.weights is None or torch.equal(mine.weights, others.weights)
        assert mine.info == others.info
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name
    for kind in ("score", "select", "auxiliary", "train"):
        assert whole.meter.work[kind].samples == resumed.meter.work[kind].samples
        assert whole.meter.work[kind].flops == resumed.meter.work[kind].flops


# --- alfa_mix ---


def test_loss_balanced_takes_a_pool_of_several_labels_a_sample_as_one_class(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    """Multi-hot targets that only a batch shows."""

    def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        targets = torch.eye(10)[[sample["labels"] for sample in samples]]
        return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples]), "labels": targets}

    model = make_vit()
    model.config.problem_type = "multi_label_classification"
    options = {"strategy": "loss_balanced", "selection_budget": 60, "num_loops": 3, "label_column": "none"}
    trainer = make_trainer(model, pool=train.select(range(80)), trainer={"data_collator": collate}, **options)
    trainer.train()
    first, second, _ = trainer.selection_history
    assert set(range(80)) - set(first.indices.tolist()) < set(second.indices.tolist())
    assert trainer.meter.work["score"].flops == 0


def test_alfa_mixs_candidates_know_what_was_selected_and_the_current_head(
    make_vit: MakeModel, make_trainer: MakeTrainer, watch: Callable[..., None]
) -> None:
    seen: list[Any] = []
    watch("alfa_mix", lambda candidates: seen.append((candidates, trainer.model.classifier.weight.detach().clone())))
    trainer = make_trainer(make_vit(), strategy="alfa_mix", num_loops=3, max_steps=6, learning_rate=0.01)
    trainer.train()
    history = trainer.selection_history
    for loop, (candidates, weight) in enumerate(seen):
        past = {int(index) for selection in history[:loop] for index in selection.indices}
        assert set(candidates.indices[candidates.selected].tolist()) == past
        assert torch.equal(candidates.head.weight, weight)
    assert not torch.equal(seen[0][0].head.weight, seen[1][0].head.weight)


def test_alfa_mix_refuses_another_head_at_construction(make_trainer: MakeTrainer) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))
            self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))

    with pytest.raises(ValueError, match="'alfa_mix' needs a linear head, and this one is Sequential"):
        make_trainer(Deep(), strategy="alfa_mix")


# --- rho_loss ---


def test_rho_loss_scores_the_held_out_samples_and_the_pool_once_and_then_ten_times_the_budget(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, validation: Dataset
) -> None:
    pool = train.select(range(80))
    trainer = make_trainer(make_vit(), pool=pool, strategy="rho_loss", selection_budget=3, max_steps=4)
    trainer.train()
    scored = len(validation) + 80 + 2 * 30
    assert trainer.meter.work["score"].samples == scored
    assert trainer.meter.work["score"].flops == scored * trainer.meter.forward_flops[FULL_SIZE]
    # The losses of the pool under the held-out model, and its fit: forward and backward, several times.
    assert trainer.meter.work["select"].flops > 2 * 80 * 16 * 10 + 2 * 4 * len(validation) * 16 * 10


def test_rho_losses_held_out_model_is_of_the_model_as_the_run_began(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    options = {"strategy": "rho_loss", "save_strategy": "steps", "save_steps": 1, "max_steps": 4, "learning_rate": 0.01}
    whole = make_trainer(make_vit(), **options)
    whole.train()
    resumed = make_trainer(make_vit(1), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    one, other = whole.loop.selector.irreducible, resumed.loop.selector.irreducible
    assert one is not None and other is not None and len(one) == 120
    assert torch.equal(one, other)


def test_rho_loss_leaves_noise_alone(make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset) -> None:
    """Of samples that the held-out model knows under another label, fewer are selected than by the loss alone."""
    clean, wrong = train.select(range(60)), train.select(range(60, 120))
    transform = wrong.format["format_kwargs"]["transform"]

    def mislabel(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        loaded = transform(batch)
        return {**loaded, "labels": [(label + 5) % 10 for label in loaded["labels"]]}

    class Pool(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.samples = [*clean.with_transform(transform), *wrong.with_transform(mislabel)]

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> Any:
            return self.samples[index]

    def mislabelled(strategy: str) -> int:
        trainer = make_trainer(
            make_vit(), pool=Pool(), strategy=strategy, selection_budget=12, num_loops=1, max_steps=1
        )
        trainer.train()
        return int((trainer.selection.indices >= 60).sum())

    assert mislabelled("rho_loss") < mislabelled("topk_loss")


@pytest.mark.parametrize("given", ["nothing", "several"])
def test_rho_loss_without_one_eval_dataset_is_refused_at_construction(
    make_vit: MakeModel, make_trainer: MakeTrainer, validation: Dataset, given: str
) -> None:
    eval_dataset = None if given == "nothing" else {"one": validation, "other": validation}
    with pytest.raises(ValueError, match="'rho_loss' fits a small model on held-out samples: pass one map-style"):
        make_trainer(make_vit(), strategy="rho_loss", trainer={"eval_dataset": eval_dataset})


def test_rho_loss_does_without_samples_that_cannot_be_loaded(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, broken: Callable[[Dataset, set[int]], Dataset]
) -> None:
    marked = {3, 40}
    trainer = make_trainer(
        make_vit(),
        pool=broken(train.select(range(80)), marked),
        strategy="rho_loss",
        selection_budget=60,
        max_steps=4,
        on_bad_sample="skip",
    )
    trainer.train()
    assert set(trainer.skipped_samples) == marked
    assert all(not marked & set(selection.indices.tolist()) for selection in trainer.selection_history)


# --- infobatch ---


def test_infobatch_goes_by_the_losses_that_training_saw_and_anneals(
    make_vit: MakeModel, make_trainer: MakeTrainer, watch: Callable[..., None]
) -> None:
    """Eight loops over a pool of 120, two batches of 30 in each."""
    seen: list[Any] = []
    watch("infobatch", seen.append)
    # A model that does not learn: what training saw can be computed afterwards.
    options = {"strategy": "infobatch", "num_loops": 8, "max_steps": 16, "per_device_train_batch_size": 30}
    trainer = make_trainer(make_vit(), learning_rate=0.0, **options)
    trainer.train()
    assert trainer.meter.work["score"].samples == 0
    losses = trainer.scorer.score(torch.arange(120)).losses
    trained: set[int] = set()
    for loop, (candidates, selection) in enumerate(zip(seen, trainer.selection_history, strict=True)):
        assert candidates.progress == loop / 8
        known = candidates.training_losses.isfinite().nonzero().squeeze(1)
        assert set(known.tolist()) == trained
        torch.testing.assert_close(candidates.training_losses[known], losses[known])
        if loop in (0, 7):
            assert len(selection) == 120 and selection.weights is None
        else:
            learned = set(known[losses[known] < losses[known].mean()].tolist())
            pruned = set(range(120)) - set(selection.indices.tolist())
            assert pruned <= learned and abs(len(pruned) - len(learned) / 2) <= 0.5
            heavy = selection.indices[selection.weights == selection.weights.max()]
            assert set(heavy.tolist()) == learned - pruned
        trained |= set(trainer.loop.history.streams[loop].samples(60, trainer.loop.schedule.seed).tolist())


def test_infobatch_without_a_loop_in_the_last_eighth_prunes_to_the_end(
    make_vit: MakeModel, make_trainer: MakeTrainer
) -> None:
    trainer = make_trainer(make_vit(), strategy="infobatch", num_loops=3, max_steps=15)
    trainer.train()
    assert [len(selection) < 120 for selection in trainer.selection_history] == [False, True, True]


# --- Weights ---


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("objective", ["the model's", "compute_loss_func", "sample_loss_func"])
def test_a_selections_weights_act_in_each_loop_that_has_some(
    make_vit: MakeModel, make_trainer: MakeTrainer, objective: str, accumulation: int
) -> None:
    weighs = iter([True, False, True])

    def weighing(candidates: Any, budget: int, options: Any, generator: torch.Generator) -> Selection:
        indices = candidates.indices[::3][:budget]
        return Selection(indices, weights=indices + 1.0 if next(weighs) else None)

    def batch_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return 2 * cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    def sample_loss(outputs: Any, labels: Any) -> Any:
        return 2 * cross_entropy(outputs["logits"], labels, reduction="none")

    given = {
        "compute_loss_func": {"compute_loss_func": batch_loss},
        "sample_loss_func": {"sample_loss_func": sample_loss},
    }
    sizes = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(
        make_vit(),
        trainer=given.get(objective, {}),
        strategy=weighing,
        selection_budget=8,
        num_loops=3,
        max_steps=3,
        learning_rate=0.0,
        **sizes,
    )
    trainer.train()
    logged = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    for selection, found in zip(trainer.selection_history, logged, strict=True):
        losses = trainer.scorer.score(selection.indices).losses
        weights = torch.ones(8) if selection.weights is None else selection.weights
        assert found == pytest.approx(float((weights * losses).mean()), abs=1e-4)
    assert abs(logged[0] - logged[1]) > 1e-3
