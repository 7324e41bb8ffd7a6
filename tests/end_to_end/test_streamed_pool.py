"""A streamed pool trains as the same samples in memory do; of the stream each boundary reads whole shards, once."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset, load_dataset
from every_case import every_case
from pixels import collate, to_pixels
from resumed_runs import StopAfter, Stopped, assert_same_run
from transformers import PreTrainedModel

from vecaf_hf import CEACallback, ShardedDataset, VeCAFTrainer
from vecaf_hf.data import shards as shards_module

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
SHARDS, EACH = 10, 12


@pytest.fixture
def raw(fashion: Dataset) -> Dataset:
    return fashion.select(range(SHARDS * EACH))


@pytest.fixture
def files(raw: Dataset, tmp_path: Path) -> list[str]:
    found = [str(tmp_path / f"{shard}.parquet") for shard in range(SHARDS)]
    for shard, file in enumerate(found):
        raw.select(range(shard * EACH, (shard + 1) * EACH)).to_parquet(file)
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each shard was read from the stream."""
    found: Counter[int] = Counter()
    tables = shards_module.tables

    def counted(stream: Any, shard: int, features: Any) -> Any:
        found[shard] += 1
        return tables(stream, shard, features)

    monkeypatch.setattr(shards_module, "tables", counted)
    return found


def pool(files: list[str], folder: Path, **options: Any) -> ShardedDataset:
    return ShardedDataset.from_parquet(files, folder, **options).with_transform(to_pixels)


@every_case("strategy", ["ods", "balanced", "activeft"])
def test_the_run_of_the_same_samples_in_memory(strategy, files, make_vit, make_trainer, tmp_path):
    runs = {}
    for name, given in (("streamed", pool(files, tmp_path / "kept")), ("memory", None)):
        runs[name] = make_trainer(make_vit(), pool=given, strategy=strategy, output_dir=str(tmp_path / name))
        runs[name].train()
    assert_same_run(runs["streamed"], runs["memory"])


def test_with_cea_and_a_transform_for_scoring(files, make_vit, make_trainer, text_encoder, tmp_path):
    def darker(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found = to_pixels(batch)
        return {**found, "pixel_values": [pixels / 2 for pixels in found["pixel_values"]]}

    runs = {}
    in_memory = Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    for name, data in (("streamed", ShardedDataset.from_parquet(files, tmp_path / "kept")), ("memory", in_memory)):
        cea = CEACallback(text_encoder, "a photo of a {label}")
        runs[name] = make_trainer(
            make_vit(),
            [cea],
            data.with_transform(to_pixels),
            {"scoring_dataset": data.with_transform(darker)},
            output_dir=str(tmp_path / name),
        )
        runs[name].train()
    assert_same_run(runs["streamed"], runs["memory"])


def test_a_boundary_reads_its_shards_once_and_training_none(files, read, make_vit, make_trainer, tmp_path):
    given = pool(files, tmp_path / "kept")
    trainer = make_trainer(make_vit(), pool=given, rescore="sampled", scoring_fraction=0.3, num_loops=3, max_steps=9)
    trainer.train()
    # Three loops of three shards each, all others; and the first one, which is tried before, perhaps once more.
    assert all(times == 1 for shard, times in read.items() if shard) and read[0] in (1, 2) and len(read) in (9, 10)
    for selection in trainer.selection_history:
        assert len({int(index) // EACH for index in selection.indices}) <= 3
    assert [file.name for file in (tmp_path / "kept").rglob("*.arrow")] == ["kept.arrow"]
    scored = trainer.meter.state_dict()["work"]["score"]["samples"]
    assert scored == 3 * 3 * EACH


@every_case("kept", [True, False])
def test_killed_and_resumed(kept, files, make_vit, make_trainer, tmp_path):
    options: dict[str, Any] = {"rescore": "sampled", "scoring_fraction": 0.4, "save_strategy": "steps", "save_steps": 3}

    def make(name: str, callbacks: list[Any] | None = None) -> VeCAFTrainer:
        given = pool(files, tmp_path / f"{name} kept")
        return make_trainer(make_vit(), callbacks, given, output_dir=str(tmp_path / name), **options)

    whole = make("whole")
    whole.train()
    with pytest.raises(Stopped):
        make("killed", [StopAfter(7)]).train()
    if not kept:
        shutil.rmtree(tmp_path / "killed kept")
    resumed = make("killed")
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole)


def test_a_stream_as_trainer_takes_it(files, make_vit, make_trainer, tmp_path):
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert isinstance(stream, IterableDataset)

    def tensors(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found = to_pixels(batch)
        return {"pixel_values": [pixels.numpy() for pixels in found["pixel_values"]], "labels": found["labels"]}

    mapped = stream.map(tensors, batched=True, remove_columns=["image", "label"]).with_format("torch")
    trainer = make_trainer(
        make_vit(),
        pool=mapped,
        strategy="balanced",
        num_loops=None,
        max_steps=-1,
        num_train_epochs=2,
        selection_budget=None,
    )
    trainer.train()
    assert trainer.state.global_step == 2 * SHARDS * EACH // 8 and trainer.state.epoch == 2
    assert list((tmp_path / "run" / "streamed").rglob("kept.arrow"))
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))


def test_what_is_random_in_map_is_the_same_when_resumed(files, make_vit, make_trainer, tmp_path):
    def noisy(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found = to_pixels(batch)
        pixels = [(pixels + 0.1 * torch.randn(3, 1, 1)).numpy() for pixels in found["pixel_values"]]
        return {"pixel_values": pixels, "labels": found["labels"]}

    def make(name: str, callbacks: list[Any] | None = None) -> VeCAFTrainer:
        stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
        mapped = stream.map(noisy, batched=True, remove_columns=["image", "label", "caption"]).with_format("torch")
        saves = {"save_strategy": "steps", "save_steps": 3, "rescore": "sampled", "scoring_fraction": 0.4}
        return make_trainer(make_vit(), callbacks, mapped, output_dir=str(tmp_path / name), **saves)

    whole = make("whole")
    whole.train()
    with pytest.raises(Stopped):
        make("killed", [StopAfter(7)]).train()
    shutil.rmtree(tmp_path / "killed" / "streamed")
    resumed = make("killed")
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole)


def test_a_stream_may_take_a_datasets_place(files, train, make_vit, make_trainer, tmp_path):
    trainer = make_trainer(make_vit(), pool=train)
    trainer.train_dataset = load_dataset("parquet", data_files=files[:3], split="train", streaming=True)
    trainer.data_collator = lambda rows: collate(
        [
            {name: values[0] for name, values in to_pixels({"image": [row["image"]], "label": [row["label"]]}).items()}
            for row in rows
        ]
    )
    trainer.train()
    assert len(trainer.pool) == 3 * EACH and len(trainer.selection_history) == 2


@every_case("strategy", ["balanced", "ods"])
def test_a_shard_that_breaks_is_skipped(strategy, files, make_vit, make_trainer, tmp_path):
    given, whole = pool(files, tmp_path / strategy / "kept"), Path(files[4]).read_bytes()
    Path(files[4]).write_bytes(whole[:100])
    options = {"strategy": strategy, "output_dir": str(tmp_path / strategy), "selection_budget": 40}
    with pytest.raises((OSError, ValueError), match="shard 4 of the stream"):
        make_trainer(make_vit(), pool=given, **options).train()
    trainer = make_trainer(make_vit(), pool=given, on_bad_sample="skip", **options)
    trainer.train()
    Path(files[4]).write_bytes(whole)
    broken = set(range(4 * EACH, 5 * EACH))
    assert trainer.state.global_step == 8 and set(trainer.skipped_samples) <= broken
    # Of what nothing scores, some may be selected that no batch comes to.
    assert strategy == "balanced" or set(trainer.skipped_samples) == broken


def test_another_stream_is_not_resumed(files, make_vit, make_trainer, tmp_path):
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}
    make_trainer(make_vit(), pool=pool(files, tmp_path / "kept"), **options).train()
    other = make_trainer(make_vit(), pool=pool(files[::-1], tmp_path / "others"), **options)
    with pytest.raises(ValueError, match=r"pool was .* and is .* now"):
        other.train(resume_from_checkpoint=True)


@every_case("shuffled", [True, False])
def test_shards_that_are_no_random_parts_are_told(shuffled, raw, make_vit, make_trainer, tmp_path, caplog):
    ordered = raw.shuffle(seed=1) if shuffled else raw.sort("label")
    stream = ordered.to_iterable_dataset(num_shards=SHARDS)
    given = ShardedDataset(stream, tmp_path / "kept").with_transform(to_pixels)
    make_trainer(make_vit(), pool=given, rescore="sampled", scoring_fraction=0.3, selection_budget=10).train()
    assert ("have other classes than the pool" in caplog.text) != shuffled
