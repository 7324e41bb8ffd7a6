"""What reaches the model in each loop: samples that say who they are, and a model that writes down whom it sees."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer

POOL, CLASSES = 40, 4
# A run looks at a few samples before it begins, to say at once what is wrong with model or data.
PROBE = 16


class Witness(nn.Module):
    """A classifier that writes down which samples it was given, by their first pixel, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.classifier = nn.Linear(12, 6), nn.Linear(6, CLASSES)
        self.trained: list[list[int]] = []
        self.scored: list[int] = []

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        seen = pixel_values[:, 0, 0, 0].round().int().tolist()
        if self.training:
            self.trained.append(seen)
        else:
            self.scored.extend(seen)
        logits = self.classifier(self.body(pixel_values.flatten(1) / POOL).tanh())
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


def image(index: int) -> Tensor:
    """[3, 2, 2], its first pixel the sample's position in the pool."""
    pixels = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(index))
    pixels[0, 0, 0] = index
    return pixels


@pytest.fixture
def pool() -> Dataset:
    images = [image(index).tolist() for index in range(POOL)]
    columns = {"pixel_values": images, "labels": [index % CLASSES for index in range(POOL)]}
    return Dataset.from_dict(columns).with_format("torch")


@pytest.fixture
def witnessed(make_trainer: Callable[..., VeCAFTrainer], pool: Dataset) -> Callable[..., VeCAFTrainer]:
    """A trained run of a Witness over the pool."""

    def run(dataset: Any = None, callbacks: list[Any] | None = None, **options: Any) -> VeCAFTrainer:
        chosen: dict[str, Any] = {"trainer": {"data_collator": None, "eval_dataset": None}, **options}
        trainer = make_trainer(Witness(), pool=pool if dataset is None else dataset, callbacks=callbacks, **chosen)
        trainer.train()
        return trainer

    return run


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def by_loop(batches: list[list[int]], per_loop: int) -> list[list[list[int]]]:
    return [batches[start : start + per_loop] for start in range(0, len(batches), per_loop)]


def passes(samples: list[int], size: int) -> list[list[int]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def check_passes(samples: list[int], chosen: set[int]) -> None:
    """Every pass holds every sample of the selection once, the last one a part of them; the order changes."""
    turns = passes(samples, len(chosen))
    for turn in turns[:-1]:
        assert sorted(turn) == sorted(chosen)
    assert set(turns[-1]) <= chosen
    assert len(set(turns[-1])) == len(turns[-1])
    assert all(one[: len(other)] != other for one, other in pairwise(turns) if len(other) > 3)


def disjoint(size: int) -> Callable[..., Tensor]:
    """A strategy that selects 0..size-1 in its first loop, the next `size` samples in its second, and so on."""
    calls = iter(range(100))

    def select(candidates: Any, budget: int, options: Any, generator: Any) -> Tensor:
        loop = next(calls)
        return torch.arange(loop * size, (loop + 1) * size)

    return select


# --- The samples of a loop ---


@pytest.mark.parametrize("strategy", ["ods", "random", "balanced", "topk_loss", "activeft"])
def test_only_selected_samples_reach_the_model_reshuffled_every_pass(
    witnessed: Callable[..., VeCAFTrainer], strategy: str
) -> None:
    trainer = witnessed(strategy=strategy, num_loops=3, max_steps=13, selection_budget=12)
    loops = by_loop(trainer.model.trained, 5)
    assert [len(loop) for loop in loops] == [5, 5, 3]
    assert all(len(batch) == 8 for batch in trainer.model.trained)
    for selection, batches in zip(trainer.selection_history, loops, strict=True):
        chosen = set(selection.indices.tolist())
        assert len(chosen) == 12
        check_passes(flat(batches), chosen)


def test_a_batch_spans_two_passes(witnessed: Callable[..., VeCAFTrainer]) -> None:
    trainer = witnessed(strategy=disjoint(12), num_loops=1, max_steps=3, selection_budget=12)
    spanning = trainer.model.trained[1]
    assert sorted(trainer.model.trained[0] + spanning[:4]) == list(range(12))
    assert set(spanning[4:]) <= set(range(12))


def test_scoring_sees_the_whole_pool_once_a_loop(witnessed: Callable[..., VeCAFTrainer]) -> None:
    trainer = witnessed(strategy="ods", num_loops=3, max_steps=6, eval_strategy="no")
    scored = trainer.model.scored
    assert len(scored) <= PROBE + 3 * POOL
    assert [sorted(part) for part in passes(scored[-3 * POOL :], POOL)] == [list(range(POOL))] * 3
    assert trainer.meter.work["score"].samples == 3 * POOL


@pytest.mark.parametrize("strategy", ["random", "balanced", "full", "infobatch"])
def test_strategies_that_need_no_scores_cost_no_forward_pass(
    witnessed: Callable[..., VeCAFTrainer], strategy: str
) -> None:
    trainer = witnessed(strategy=strategy, eval_strategy="no")
    assert len(trainer.model.scored) <= PROBE
    assert trainer.meter.work["score"].samples == 0


def test_sampled_scores_a_part_and_selects_from_it(witnessed: Callable[..., VeCAFTrainer]) -> None:
    options = {"rescore": "sampled", "scoring_fraction": 0.5, "selection_budget": 10}
    trainer = witnessed(strategy="ods", eval_strategy="no", **options)
    parts = passes(trainer.model.scored[-POOL:], POOL // 2)
    assert [len(set(part)) for part in parts] == [20, 20]
    assert set(parts[0]) != set(parts[1])
    for part, selection in zip(parts, trainer.selection_history, strict=True):
        assert set(selection.indices.tolist()) <= set(part)


def test_full_runs_whole_epochs_in_order_across_loops(witnessed: Callable[..., VeCAFTrainer]) -> None:
    trainer = witnessed(strategy="full", num_loops=4, max_steps=14, num_train_epochs=1)
    seen = flat(trainer.model.trained)
    assert len(seen) == 14 * 8
    # 14 batches of 8 are 2.8 epochs of 40; no loop's end (after 4, 8, 12 batches) is an epoch's end.
    check_passes(seen, set(range(POOL)))


def test_an_unchanged_selection_goes_on_where_the_last_loop_stopped(
    witnessed: Callable[..., VeCAFTrainer],
) -> None:
    trainer = witnessed(strategy="random", single_run=True, num_loops=3, max_steps=9, selection_budget=20)
    assert len({tuple(selection.indices.tolist()) for selection in trainer.selection_history}) == 1
    check_passes(flat(trainer.model.trained), set(trainer.selection.indices.tolist()))


def test_a_budget_of_one_and_of_the_whole_pool(witnessed: Callable[..., VeCAFTrainer]) -> None:
    one = witnessed(strategy="ods", selection_budget=1)
    assert [set(flat(loop)) for loop in by_loop(one.model.trained, 4)] == [
        set(selection.indices.tolist()) for selection in one.selection_history
    ]
    whole = witnessed(strategy="ods", selection_fraction=1.0, selection_budget=None)
    assert sorted(whole.selection.indices.tolist()) == list(range(POOL))


# --- Boundaries ---


@pytest.mark.parametrize(("steps", "loops", "per_loop"), [(9, 3, 3), (8, 3, 3), (5, 2, 3), (3, 3, 1)])
def test_gradient_accumulation_keeps_the_boundaries(
    witnessed: Callable[..., VeCAFTrainer], steps: int, loops: int, per_loop: int
) -> None:
    trainer = witnessed(
        strategy=disjoint(5),
        selection_budget=5,
        num_loops=loops,
        max_steps=steps,
        gradient_accumulation_steps=3,
        per_device_train_batch_size=2,
    )
    micro_batches = trainer.model.trained
    assert trainer.state.global_step == steps
    assert len(micro_batches) == 3 * steps
    for position, batch in enumerate(micro_batches):
        step = position // 3
        assert {index // 5 for index in batch} == {step // per_loop}
    assert [record.step for record in trainer.loop_records] == list(range(0, steps, per_loop))


def test_evaluation_between_loops_changes_nothing(witnessed: Callable[..., VeCAFTrainer], pool: Dataset) -> None:
    plain = witnessed(strategy="ods", eval_strategy="no")
    evaluated = witnessed(
        strategy="ods", eval_strategy="epoch", trainer={"data_collator": None, "eval_dataset": pool.select(range(8))}
    )
    assert plain.model.trained == evaluated.model.trained
    assert_same_weights(plain.model, evaluated.model)


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    others = other.state_dict()
    for name, values in one.state_dict().items():
        assert torch.equal(values, others[name]), name


# --- Workers ---


def shaken(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Random augmentation that draws from all three generators."""
    pixels = []
    for values in batch["pixel_values"]:
        moved = torch.as_tensor(values).clone()
        moved[1] += torch.rand(2, 2) + float(np.random.rand()) + random.random()
        pixels.append(moved)
    return {"pixel_values": pixels, "labels": batch["labels"]}


def test_persistent_workers_see_each_loops_selection_and_change_nothing(
    witnessed: Callable[..., VeCAFTrainer], pool: Dataset
) -> None:
    augmented = pool.with_transform(shaken)
    runs = [
        witnessed(
            augmented,
            strategy=disjoint(12),
            selection_budget=12,
            num_loops=3,
            max_steps=9,
            dataloader_num_workers=workers,
            dataloader_persistent_workers=workers > 0,
        )
        for workers in (0, 2)
    ]
    for trainer in runs:
        for loop, batches in enumerate(by_loop(trainer.model.trained, 3)):
            check_passes(flat(batches), set(range(12 * loop, 12 * loop + 12)))
    assert runs[0].model.trained == runs[1].model.trained
    assert_same_weights(runs[0].model, runs[1].model)


def test_augmentation_is_another_one_in_each_pass(make_trainer: Callable[..., VeCAFTrainer], pool: Dataset) -> None:
    seen: dict[int, list[float]] = {}

    class Watching(Witness):
        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            if self.training:
                for pixels in pixel_values:
                    seen.setdefault(int(pixels[0, 0, 0]), []).append(float(pixels[1].sum()))
            return super().forward(pixel_values, labels)

    make_trainer(
        Watching(),
        pool=pool.with_transform(shaken),
        strategy=disjoint(8),
        selection_budget=8,
        num_loops=1,
        max_steps=4,
        trainer={"data_collator": None},
    ).train()
    assert sorted(seen) == list(range(8))
    assert all(len(set(sums)) == 4 for sums in seen.values())


# --- Length of the run ---


@pytest.mark.parametrize(
    ("size", "batch", "accumulation", "drop_last", "epochs"),
    [
        (40, 8, 1, False, 2.0),
        (37, 8, 1, False, 2.0),
        (37, 8, 1, True, 2.0),
        (37, 8, 2, False, 3.0),
        (37, 8, 3, True, 2.0),
        (37, 5, 3, False, 1.5),
        (23, 4, 2, False, 0.7),
        (9, 8, 4, False, 3.0),
    ],
)
def test_epochs_give_as_many_steps_as_with_trainer(
    witnessed: Callable[..., VeCAFTrainer],
    pool: Dataset,
    tmp_path: Any,
    size: int,
    batch: int,
    accumulation: int,
    drop_last: bool,
    epochs: float,
) -> None:
    options: dict[str, Any] = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "dataloader_drop_last": drop_last,
        "num_train_epochs": epochs,
    }
    part = pool.select(range(size))
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "logging_steps": 1000}
    stock = Trainer(Witness(), TrainingArguments(str(tmp_path / "stock"), **options, **quiet), train_dataset=part)
    stock.train()
    ours = witnessed(part, num_loops=2, max_steps=-1, selection_budget=5, **options)
    assert ours.state.max_steps == stock.state.max_steps
    assert ours.state.global_step == stock.state.global_step
    assert len(ours.model.trained) == ours.state.global_step * accumulation


# --- Kinds of datasets ---


class Pairs(torch.utils.data.Dataset):
    """Items are (image, label) tuples, as torchvision's."""

    def __len__(self) -> int:
        return POOL

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return image(index), index % CLASSES


class PairsWithTargets(Pairs):
    def __init__(self) -> None:
        self.targets = [index % CLASSES for index in range(POOL)]


def collate_pairs(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def as_numbers(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"pixel_values": [torch.as_tensor(image) for image in batch["pixel_values"]], "labels": batch["labels"]}


@pytest.mark.parametrize("kind", ["tuples", "targets", "plain", "format", "transform"])
def test_every_kind_of_dataset_trains_the_same(
    witnessed: Callable[..., VeCAFTrainer], pool: Dataset, text_encoder: TextEncoder, kind: str
) -> None:
    tuples = {"trainer": {"data_collator": collate_pairs}}
    dataset, options = {
        "tuples": (Pairs(), tuples),
        "targets": (PairsWithTargets(), tuples),
        "plain": (pool.with_format(None), {}),
        "format": (pool, {"remove_unused_columns": True}),
        "transform": (pool.with_transform(as_numbers), {}),
    }[kind]
    captions = [f"sample of kind {index % CLASSES}" for index in range(POOL)]
    # Class labels are not known before the first batch of plain tuples: one cell for all.
    callback = CEACallback(text_encoder, captions=captions)
    trainer = witnessed(dataset, [callback], strategy="ods", allocation="global", selection_budget=12, **options)
    reference = witnessed(
        None, [CEACallback(text_encoder, captions=captions)], strategy="ods", allocation="global", selection_budget=12
    )
    assert trainer.model.trained == reference.model.trained
    assert_same_weights(trainer.model, reference.model)


def test_balanced_reads_labels_through_the_collator(witnessed: Callable[..., VeCAFTrainer]) -> None:
    trainer = witnessed(
        Pairs(), strategy="balanced", selection_budget=12, trainer={"data_collator": collate_pairs}, eval_strategy="no"
    )
    assert trainer.loop_records[0].class_counts == {0: 3, 1: 3, 2: 3, 3: 3}


def test_unknown_columns_do_not_reach_the_model(witnessed: Callable[..., VeCAFTrainer], pool: Dataset) -> None:
    extra = pool.add_column("caption", [f"number {index}" for index in range(POOL)])
    trainer = witnessed(extra, strategy="ods", remove_unused_columns=True)
    assert len(trainer.model.trained) == 8
