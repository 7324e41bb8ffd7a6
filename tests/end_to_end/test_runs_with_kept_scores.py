"""Runs that keep the untrained model's scores: what a second one pays, and that it is the same run bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from datasets import Dataset
from resumed_runs import StopAfter, Stopped
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.scoring.score_cache import ScoreCache
from vecaf_hf.selection.candidates import Candidates

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
Watch = Callable[[str, Callable[[Candidates], object]], None]

POOL = 120
HIT = "vecaf/score_cache_hit"
FIGURES = ("loss", "eval_loss", "vecaf/pool_loss", "vecaf/selected_loss")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scores"


@pytest.fixture
def run(make_vit: MakeModel, make_trainer: MakeTrainer, folder: Path) -> Callable[..., VeCAFTrainer]:
    def run(model: Any = None, callbacks: Any = None, **options: Any) -> VeCAFTrainer:
        given = {"max_steps": 4, "score_cache": str(folder), **options}
        trainer = make_trainer(make_vit() if model is None else model, callbacks, **given)
        trainer.train()
        return trainer

    return run


def hits(trainer: VeCAFTrainer) -> list[float]:
    return [log[HIT] for log in trainer.state.log_history if HIT in log]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def assert_same(one: VeCAFTrainer, other: VeCAFTrainer) -> None:
    for (name, mine), yours in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(mine, yours), name
    for mine, yours in zip(one.selection_history, other.selection_history, strict=True):
        assert torch.equal(mine.indices, yours.indices)
    shown = [
        [(log["step"], name, log[name]) for log in trainer.state.log_history for name in FIGURES if name in log]
        for trainer in (one, other)
    ]
    assert shown[0] == shown[1]


def scored(trainer: VeCAFTrainer) -> int:
    return trainer.meter.work["score"].samples


# --- A second run ---

RUNS: dict[str, dict[str, Any]] = {
    "full": {},
    "stale": {"rescore": "stale"},
    "proxy": {"rescore": "proxy"},
    "logits": {"strategy": "margin"},
    "badge": {"strategy": "badge"},
    "single": {"single_run": True},
    "size": {"scoring_image_size": 16},
    "bf16": {"bf16": True},
    "half": {"half_embeddings": True, "rescore": "proxy"},
    "scoring_bf16": {"scoring_bf16": True},
    "workers": {"dataloader_num_workers": 1},
}


@pytest.mark.parametrize("case", RUNS)
def test_a_warm_run_is_the_cold_one_and_scores_nothing_at_first(
    run: Callable[..., VeCAFTrainer], folder: Path, case: str
) -> None:
    cold, warm = run(**RUNS[case]), run(**RUNS[case])
    assert (hits(cold), hits(warm)) == ([0.0], [1.0])
    assert scored(cold) - scored(warm) == POOL
    if case in ("proxy", "single"):
        assert scored(warm) == 0
    assert_same(cold, warm)
    assert len(entries(folder)) == 1


def test_with_cea(run: Callable[..., VeCAFTrainer], text_encoder: TextEncoder) -> None:
    cold, warm = (run(callbacks=[CEACallback(text_encoder)]) for _ in range(2))
    assert hits(warm) == [1.0] and scored(cold) - scored(warm) == POOL
    assert cold.loop_records[0].info["cea_relative_shift"] == warm.loop_records[0].info["cea_relative_shift"]
    assert_same(cold, warm)


@pytest.mark.parametrize("strategy", ["ods", "margin"])
@pytest.mark.parametrize("bf16", [False, True])
def test_kept_candidates_are_those_of_a_pass_under_another_head(
    run: Callable[..., VeCAFTrainer], make_vit: MakeModel, watch: Watch, strategy: str, bf16: bool
) -> None:
    def model() -> PreTrainedModel:
        made = make_vit()
        torch.nn.init.normal_(made.classifier.weight, generator=torch.Generator().manual_seed(3))
        return made

    seen: list[Candidates] = []
    run(strategy=strategy, bf16=bf16)
    watch(strategy, seen.append)
    kept = run(model(), strategy=strategy, bf16=bf16, single_run=True)
    plain = run(model(), strategy=strategy, bf16=bf16, single_run=True, score_cache=None)
    assert hits(kept) == [1.0] and hits(plain) == []
    found, expected = seen
    # Without a folder, what reads no embeddings is given none.
    without = {"embeddings"} if strategy == "margin" else set()
    # How images look, which no strategy reads, is not kept.
    compared = {name: values for name, values in expected.tensors().items() if name != "appearance"}
    assert found.tensors().keys() == compared.keys() | without
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if bf16 else {"rtol": 1e-5, "atol": 1e-5}
    for name, values in compared.items():
        torch.testing.assert_close(found.tensors()[name], values, **tolerance)
    assert without or torch.equal(found.embeddings, expected.embeddings)


def test_a_part_is_scored_as_without_a_folder(run: Callable[..., VeCAFTrainer], folder: Path) -> None:
    options: dict[str, Any] = {"rescore": "sampled", "single_run": True}
    gone, cold = run(**options, score_cache=None), run(**options)
    assert entries(folder) == []
    run()
    warm = run(**options)
    assert hits(gone) == hits(cold) == hits(warm) == []
    assert 0 < scored(gone) == scored(cold) == scored(warm) < POOL
    assert_same(gone, cold)
    assert_same(gone, warm)


def test_a_strategy_that_scores_what_it_selected(
    run: Callable[..., VeCAFTrainer], text_encoder: TextEncoder, folder: Path
) -> None:
    options = {"strategy": "random", "selection_budget": 20}
    cold = run(callbacks=[CEACallback(text_encoder)], **options)
    assert entries(folder) == []
    run()
    warm = run(callbacks=[CEACallback(text_encoder)], **options)
    assert hits(cold) == hits(warm) == [] and scored(cold) == scored(warm)
    assert_same(cold, warm)


@pytest.mark.parametrize("strategy", ["rho_loss", "learn_loss"])
def test_strategies_with_more_to_learn(run: Callable[..., VeCAFTrainer], strategy: str) -> None:
    cold, warm = (run(strategy=strategy, selection_budget=8) for _ in range(2))
    assert_same(cold, warm)
    assert (hits(cold), hits(warm)) == (([0.0], [1.0]) if strategy == "rho_loss" else ([], []))
    # The pool, but not its part in the first loop; what a learner looks at is looked at anew.
    assert scored(cold) - scored(warm) == (POOL if strategy == "rho_loss" else 0)


@pytest.mark.parametrize("strategy", ["rho_loss", "ods"])
def test_an_inspection_foresees_that_a_part_is_scored(
    make_vit: MakeModel, make_trainer: MakeTrainer, folder: Path, strategy: str
) -> None:
    options = {"strategy": strategy, "rescore": "full" if strategy == "rho_loss" else "sampled"}
    for _ in range(2):
        trainer = make_trainer(make_vit(), score_cache=str(folder), selection_budget=8, **options)
        foreseen = trainer.inspect().cost.forwards
        trainer.train()
        assert scored(trainer) == foreseen


def test_an_inspection_scores_nothing_either(make_vit: MakeModel, make_trainer: MakeTrainer, folder: Path) -> None:
    foreseen = []
    for _ in range(2):
        trainer = make_trainer(make_vit(), score_cache=str(folder), eval_strategy="no")
        foreseen.append(trainer.inspect().cost.forwards)
        trainer.train()
        assert hits(trainer) == [1.0]
        assert scored(trainer) == foreseen[-1] == POOL


# --- What makes another entry ---


def other_pixels(pool: Dataset) -> Dataset:
    transform = pool.format["format_kwargs"]["transform"]

    def brighter(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        loaded = transform(batch)
        return {**loaded, "pixel_values": [pixels + 1e-3 for pixels in loaded["pixel_values"]]}

    return pool.with_transform(brighter)


def other_label(pool: Dataset) -> Dataset:
    """In one row that is not among those loaded to tell the transform."""
    plain = pool.with_format(None)
    changed = plain.map(
        lambda row, index: {"label": (row["label"] + 1) % 10 if index == 1 else row["label"]},
        with_indices=True,
        load_from_cache_file=False,
    )
    return changed.with_transform(pool.format["format_kwargs"]["transform"])


OTHERS: dict[str, Callable[[MakeModel, Dataset], dict[str, Any]]] = {
    "weights": lambda make, pool: {"model": make(seed=1)},
    "transform": lambda make, pool: {"pool": other_pixels(pool)},
    "pool": lambda make, pool: {"pool": other_label(pool)},
    "shorter": lambda make, pool: {"pool": pool.select(range(119))},
    "size": lambda make, pool: {"scoring_image_size": 16},
    "precision": lambda make, pool: {"bf16": True},
    "half": lambda make, pool: {"half_embeddings": True},
    "scoring_bf16": lambda make, pool: {"scoring_bf16": True},
    "batch": lambda make, pool: {"scoring_batch_size": 50},
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_entry(
    run: Callable[..., VeCAFTrainer], make_vit: MakeModel, train: Dataset, folder: Path, other: str
) -> None:
    run(single_run=True)
    changed = run(single_run=True, **OTHERS[other](make_vit, train))
    assert hits(changed) == [0.0] and scored(changed) > 0
    assert len(entries(folder)) == 2
    assert hits(run(single_run=True)) == [1.0]


# --- What is not kept ---


def test_a_random_transform_is_told_and_not_kept(
    run: Callable[..., VeCAFTrainer], train: Dataset, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transform = train.format["format_kwargs"]["transform"]

    def flipped(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        loaded = transform(batch)
        turned = [pixels.flip(-1) if torch.rand(()) < 0.5 else pixels for pixels in loaded["pixel_values"]]
        return {**loaded, "pixel_values": turned}

    trainer = run(pool=train.with_transform(flipped), single_run=True)
    assert scored(trainer) == POOL and hits(trainer) == [] and entries(folder) == []
    assert caplog.text.count("the samples that are scored are random") == 1
    caplog.clear()
    clean = run(pool=train.with_transform(flipped), trainer={"scoring_dataset": train}, single_run=True)
    assert hits(clean) == [0.0] and "random" not in caplog.text


# The samples that are loaded differ the third time, and the fourth.
@pytest.mark.parametrize("seed", [4, 6])
def test_a_transform_that_is_rarely_random_is_told(
    run: Callable[..., VeCAFTrainer], train: Dataset, folder: Path, seed: int
) -> None:
    transform = train.format["format_kwargs"]["transform"]

    def flipped(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        loaded = transform(batch)
        turned = [pixels.flip(-1) if torch.rand(()) < 0.02 else pixels for pixels in loaded["pixel_values"]]
        return {**loaded, "pixel_values": turned}

    run(pool=train.with_transform(flipped), single_run=True, seed=seed)
    assert entries(folder) == []


def test_a_pool_that_is_no_dataset_is_told_and_not_kept(
    run: Callable[..., VeCAFTrainer], train: Dataset, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = run(pool=[train[index] for index in range(40)], single_run=True)
    assert scored(trainer) == 40 and hits(trainer) == [] and entries(folder) == []
    assert "the pool is a list" in caplog.text


@pytest.mark.parametrize("bad", [0, 1], ids=["probed", "found when scored"])
def test_a_pool_with_broken_samples_is_not_kept(
    run: Callable[..., VeCAFTrainer], broken: Callable[..., Dataset], train: Dataset, folder: Path, bad: int
) -> None:
    for _ in range(2):
        trainer = run(pool=broken(train, {bad}), on_bad_sample="skip", single_run=True)
        assert list(trainer.skipped_samples) == [bad]
        assert 1.0 not in hits(trainer) and entries(folder) == []


# --- What is damaged ---


def test_a_damaged_entry_is_made_anew(
    run: Callable[..., VeCAFTrainer], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run()
    (path,) = entries(folder)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    again = run()
    assert hits(again) == [0.0] and "made anew" in caplog.text
    assert_same(first, again)
    assert path.read_bytes() == whole


def test_an_entry_of_something_else_is_left_alone(
    run: Callable[..., VeCAFTrainer], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run()
    (path,) = entries(folder)
    cache = ScoreCache(folder)
    held = cache.read(path.stem)
    assert held is not None
    cache.write(path.stem, held["embeddings"].flip(0), held["labels"])
    again = run()
    assert hits(again) == [0.0] and "are not what the model gives" in caplog.text
    assert_same(first, again)


def test_an_objective_that_reads_more_than_logits_is_refused(
    make_vit: MakeModel, make_trainer: MakeTrainer, folder: Path
) -> None:
    def objective(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        extra = 0.0 if outputs.hidden_states is None else outputs.hidden_states[-1].norm(dim=-1).mean(dim=1)
        return cross_entropy(outputs["logits"], labels, reduction="none") + extra

    model = make_vit(output_hidden_states=True)
    trainer = make_trainer(model, score_cache=str(folder), trainer={"sample_loss_func": objective})
    with pytest.raises(ValueError, match=r"score_cache: .* reads more of the model's output than its logits"):
        trainer.train()


# --- A resumed run ---


@pytest.mark.parametrize("then", ["warm", "cold", "unset"])
@pytest.mark.parametrize("rescore", ["full", "proxy"])
def test_a_resumed_run_is_the_same_whatever_became_of_the_folder(
    run: Callable[..., VeCAFTrainer],
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    folder: Path,
    tmp_path: Path,
    rescore: str,
    then: str,
) -> None:
    options: dict[str, Any] = {"rescore": rescore, "save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    whole = run(**options, output_dir=str(tmp_path / "whole"))
    shutil.rmtree(folder)
    options |= {"output_dir": str(tmp_path / "stopped")}
    stopped = make_trainer(make_vit(), [StopAfter(2)], score_cache=str(folder), **options)
    with pytest.raises(Stopped):
        stopped.train()
    if then == "cold":
        shutil.rmtree(folder)
    resumed = make_trainer(make_vit(seed=7), score_cache=None if then == "unset" else str(folder), **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same(whole, resumed)
    assert scored(whole) == scored(resumed)


def test_a_model_of_timm(run: Callable[..., VeCAFTrainer], labelled: dict[str, Any]) -> None:
    def model() -> PreTrainedModel:
        tf.set_seed(0)
        config = tf.TimmWrapperConfig(architecture="efficientnet_lite0", **labelled)
        return tf.TimmWrapperForImageClassification(config)

    cold, warm = (run(model(), single_run=True, max_steps=2) for _ in range(2))
    assert hits(warm) == [1.0] and scored(warm) == 0
    assert_same(cold, warm)
