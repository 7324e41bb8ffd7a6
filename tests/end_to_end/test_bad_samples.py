"""Image files that are truncated, no image or gone: refused before training, or skipped in the whole run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, Features
from transformers import PreTrainedModel, TrainerCallback

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer
from vecaf_hf.data.indexed import Unloadable
from vecaf_hf.data.ledger import SampleLedger

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]

SIZE = 60
# One in the first sixteen that are tried before the run, one of the others, one that is not there.
TRUNCATED, TEXT, GONE = 0, 17, 41
BAD = {TRUNCATED, TEXT, GONE}


@pytest.fixture
def folder(fashion: Dataset, tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for index in range(SIZE):
        fashion[index]["image"].save(tmp_path / "images" / f"{index}.png")
    truncated = tmp_path / "images" / f"{TRUNCATED}.png"
    truncated.write_bytes(truncated.read_bytes()[:100])
    (tmp_path / "images" / f"{TEXT}.png").write_text("not found")
    (tmp_path / "images" / f"{GONE}.png").unlink()
    return tmp_path / "images"


@pytest.fixture
def pool(folder: Path, fashion: Dataset, train: Dataset) -> Dataset:
    columns = {"image": [str(folder / f"{index}.png") for index in range(SIZE)], "label": fashion["label"][:SIZE]}
    features = Features({"image": datasets.Image(), "label": fashion.features["label"]})
    return Dataset.from_dict(columns, features=features).with_transform(train.format["format_kwargs"]["transform"])


CHECK = {"on_bad_sample": "check"}


class Steps(TrainerCallback):
    def __init__(self) -> None:
        self.taken = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.taken += 1


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("strategy", ["ods", "random", "full", "infobatch", "balanced"])
def test_refused_before_the_first_step(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset, folder: Path, strategy: str, workers: int
) -> None:
    steps = Steps()
    # Those that are tried before the run are whole here.
    pool = pool.select(range(1, SIZE))
    options = {"strategy": strategy, "dataloader_num_workers": workers, "selection_fraction": 1.0, **CHECK}
    trainer = make_trainer(make_vit(), [steps], pool=pool, selection_budget=None, **options)
    with pytest.raises(ValueError, match=r"cannot load sample 16 \(.*17\.png\)") as error:
        trainer.train()
    message = str(error.value)
    assert f"sample {TEXT - 1} ({folder / '17.png'}): UnidentifiedImageError: " in message
    assert f"sample {GONE - 1} ({folder / '41.png'}): FileNotFoundError: " in message
    assert 'Mend or remove it, or set on_bad_sample="skip"' in message
    # Where it went wrong, not that a worker process told of it.
    assert "Traceback" not in message
    assert "to_pixels" in str(error.value.__cause__) or "datasets" in str(error.value.__cause__)
    assert steps.taken == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_by_default_nothing_is_loaded_twice_and_a_batch_tells(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, workers: int
) -> None:
    """As for Trainer; but the error names the sample, and not the worker."""
    clean, bad = train.format["format_kwargs"]["transform"], {17}
    loaded: list[int] = []
    numbered = train.select(range(SIZE)).add_column("number", list(range(SIZE)))

    def crop(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        loaded.extend(batch["number"])
        if bad & set(batch["number"]):
            raise ValueError("crop is larger than the image")
        return clean(batch)

    steps, options = Steps(), {"strategy": "full", "num_loops": 1, "max_steps": SIZE, "per_device_train_batch_size": 1}
    options |= {"dataloader_num_workers": workers}
    trainer = make_trainer(make_vit(), [steps], pool=numbered.with_transform(crop), **options)
    with pytest.raises(ValueError, match=r"^cannot load sample 17: ValueError: crop is .*on_bad_sample=\"skip\""):
        trainer.train()
    # On which the run was probed, and those of the collator; then each once.
    assert 0 < steps.taken < SIZE and (workers or len(loaded) <= 16 + 4 + 2 * (steps.taken + 2))
    bad.clear()
    loaded.clear()
    make_trainer(make_vit(), pool=numbered.with_transform(crop), **options).train()
    assert workers or len(loaded) <= SIZE + 16 + 4


@pytest.mark.parametrize("workers", [0, 1])
def test_by_default_a_batch_tells_of_nan_and_of_labels(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, workers: int
) -> None:
    clean = train.format["format_kwargs"]["transform"]
    numbered = train.select(range(SIZE)).add_column("number", list(range(SIZE)))

    def spoilt(key: str, value: Any) -> Any:
        def load(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            given = clean(batch)
            given[key] = [
                value if number == 17 else one for number, one in zip(batch["number"], given[key], strict=True)
            ]
            return given

        return load

    nan = torch.full((3, 32, 32), torch.nan)
    cases = [
        ("pixel_values", nan, r"^pixel_values of sample 17 is NaN"),
        ("labels", -1, r"^the label of sample 17 is -1"),
    ]
    for key, value, message in cases:
        options = {"strategy": "full", "num_loops": 1, "max_steps": SIZE, "label_column": "none"}
        options |= {"dataloader_num_workers": workers, "per_device_train_batch_size": 1}
        trainer = make_trainer(make_vit(), pool=numbered.with_transform(spoilt(key, value)), **options)
        with pytest.raises(ValueError, match=message):
            trainer.train()


def test_a_systematic_failure_shows_on_a_few_samples(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    tried: list[int] = []

    def broken(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        tried.append(1)
        return {"pixel_values": batch["picture"]}

    trainer = make_trainer(make_vit(), pool=train.with_transform(broken))
    with pytest.raises(ValueError, match=r"cannot load sample 0.*KeyError: 'picture'.*and 6 more"):
        trainer.train()
    # Together, and one by one to find which it was.
    assert len(tried) <= 24


@pytest.mark.parametrize("strategy", ["ods", "random", "full", "infobatch", "balanced", "topk_loss"])
def test_skipped_in_the_whole_run(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset, caplog: pytest.LogCaptureFixture, strategy: str
) -> None:
    options = {"strategy": strategy, "on_bad_sample": "skip", "num_loops": 3, "max_steps": 24}
    trainer = make_trainer(make_vit(), pool=pool, **options)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 24
    assert trainer.skipped_samples.keys() == BAD
    assert all(not BAD & set(selection.indices.tolist()) for selection in trainer.selection_history)
    expected = SIZE - len(BAD) if strategy == "full" else 20
    # Until the third loop `full` does not meet all of its samples.
    assert all(expected <= len(selection) < SIZE for selection in trainer.selection_history)
    assert "truncated" in caplog.text or "cannot identify" in caplog.text
    assert f"sample {TEXT} (" in caplog.text


@pytest.mark.parametrize("strategy", ["ods", "random"])
@pytest.mark.parametrize("rescore", ["sampled", "stale", "proxy"])
def test_skipped_however_the_pool_is_scored(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset, rescore: str, strategy: str
) -> None:
    options = {"strategy": strategy, "rescore": rescore, "on_bad_sample": "skip", "num_loops": 3, "max_steps": 9}
    if rescore == "sampled":
        options["scoring_fraction"] = 0.5
    trainer = make_trainer(make_vit(), pool=pool, **options)
    trainer.train()
    assert trainer.state.global_step == 9
    # A part of the pool may not have met all of them.
    assert trainer.skipped_samples.keys() <= BAD if rescore == "sampled" else trainer.skipped_samples.keys() == BAD
    assert all(not BAD & set(selection.indices.tolist()) for selection in trainer.selection_history)
    assert [len(selection) for selection in trainer.selection_history] == [20, 20, 20]


@pytest.mark.parametrize("rescore", ["sampled", "stale", "proxy"])
def test_refused_before_the_first_step_however_the_pool_is_scored(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset, rescore: str
) -> None:
    steps = Steps()
    pool = pool.select(range(1, SIZE))
    # With ten loops each sample is drawn in one of them.
    part = {"scoring_fraction": 0.5} if rescore == "sampled" else {}
    trainer = make_trainer(make_vit(), [steps], pool=pool, rescore=rescore, num_loops=10, max_steps=10, **part, **CHECK)
    with pytest.raises(ValueError, match=r"cannot load sample 16 \(.*17\.png\)"):
        trainer.train()
    assert steps.taken == 0


def test_what_training_decides_is_looked_at_when_it_is_decided(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset, train: Dataset
) -> None:
    """Three loops over 57 that are whole and two that are not, unseen ones first."""
    options = {"strategy": "loss_balanced", "num_loops": 3, "max_steps": 9, "seed": 1, **CHECK}
    steps, tried = Steps(), []

    class Tried(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            tried.append(int(made.pool.ledger.tried.sum()))

    with pytest.raises(ValueError, match=r"cannot load sample (16|40) .*Mend or remove it") as error:
        make_trainer(make_vit(), [steps], pool=pool.select(range(1, SIZE)), **options).train()
    assert "17.png" in str(error.value) or "41.png" in str(error.value)
    assert steps.taken in (3, 6)
    made = make_trainer(make_vit(), [Tried()], pool=train, **options)
    made.train()
    # Sixteen samples on which the run was probed, and what a loop trains on.
    assert tried[0] <= 16 < tried[1] <= 16 + 20 and max(tried) <= 16 + 2 * 20


def test_the_choice_is_that_of_a_pool_without_them(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset
) -> None:
    """By ODS and with CEA, whose fits see the candidates only."""
    kept = [index for index in range(SIZE) if index not in BAD]
    whole, holed = make_vit(), make_vit()
    options = {"on_bad_sample": "skip", "max_steps": 4, "num_loops": 1}
    holed_trainer = make_trainer(holed, pool=pool, **options)
    whole_trainer = make_trainer(whole, pool=pool.select(kept), **options)
    holed_trainer.train()
    whole_trainer.train()
    chosen = torch.tensor(kept)[whole_trainer.selection.indices]
    assert torch.equal(holed_trainer.selection.indices, chosen)


@pytest.mark.parametrize("strategy", ["ods", "random", "full"])
def test_a_resumed_run_goes_on_without_them(
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    pool: Dataset,
    text_encoder: TextEncoder,
    tmp_path: Path,
    strategy: str,
) -> None:
    options = {"strategy": strategy, "on_bad_sample": "skip", "save_strategy": "steps", "save_steps": 3}

    def trainer(seed: int, folder: str) -> VeCAFTrainer:
        made = make_vit(seed, hidden_dropout_prob=0.1)
        return make_trainer(made, [CEACallback(text_encoder)], pool=pool, output_dir=str(tmp_path / folder), **options)

    whole = trainer(0, "whole")
    whole.train()
    resumed = trainer(1, "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.skipped_samples == whole.skipped_samples
    for mine, yours in zip(whole.selection_history, resumed.selection_history, strict=True):
        assert torch.equal(mine.indices, yours.indices)
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("strategy", ["ods", "random"])
def test_a_training_transform_that_fails_on_some(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, strategy: str
) -> None:
    """Scores are taken through another one, on which they pass."""
    clean, narrow = train.format["format_kwargs"]["transform"], {3, 17, 50}
    numbered = train.select(range(SIZE)).add_column("number", list(range(SIZE)))

    def crop(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if narrow & set(batch["number"]):
            raise ValueError("crop is larger than the image")
        return clean(batch)

    pools = {"pool": numbered.with_transform(crop), "trainer": {"scoring_dataset": numbered.with_transform(clean)}}
    steps = Steps()
    with pytest.raises(ValueError, match=r"cannot load sample 3: ValueError: crop is larger"):
        make_trainer(make_vit(), [steps], **pools, selection_budget=SIZE, strategy=strategy, **CHECK).train()
    assert steps.taken == 0
    trainer = make_trainer(make_vit(), **pools, selection_budget=40, strategy=strategy, on_bad_sample="skip")
    trainer.train()
    assert trainer.state.global_step == 8
    assert trainer.skipped_samples.keys() <= narrow
    assert all(not narrow & set(selection.indices.tolist()) for selection in trainer.selection_history)


def pool_without(train: Dataset, broken: set[int]) -> Dataset:
    """A pool of which these samples cannot be loaded, as long as they are in the set."""
    clean = train.format["format_kwargs"]["transform"]

    def load(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if broken & set(batch["number"]):
            raise OSError("the server does not answer")
        return clean(batch)

    return train.select(range(SIZE)).add_column("number", list(range(SIZE))).with_transform(load)


def test_a_sample_that_could_not_be_loaded_for_a_while_is_back(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    broken = {5, 20}

    class Mended(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            broken.clear()

    trainer = make_trainer(make_vit(), [Mended()], pool=pool_without(train, broken), on_bad_sample="skip")
    trainer.train()
    assert trainer.skipped_samples == {}
    assert trainer.loop_records[0].info.keys() == trainer.loop_records[1].info.keys()


def test_what_was_mended_after_a_run_is_trained_on_in_the_next(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset
) -> None:
    broken = {5, 20}
    options = {"strategy": "full", "num_loops": 1, "max_steps": 8, "eval_strategy": "no", "on_bad_sample": "skip"}
    trainer = make_trainer(make_vit(), pool=pool_without(train, broken), **options)
    trainer.train()
    assert trainer.skipped_samples.keys() == {5, 20} and len(trainer.selection) == SIZE - 2
    broken.clear()
    trainer.train()
    assert trainer.skipped_samples == {} and len(trainer.selection) == SIZE


def test_a_storage_that_is_gone_is_no_pool_to_skip(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset, folder: Path
) -> None:
    for path in list(folder.glob("*.png"))[:40]:
        path.unlink()
    with pytest.raises(ValueError, match=r"That is most of the 60 samples: is their storage there"):
        make_trainer(make_vit(), pool=pool, on_bad_sample="skip").train()


def test_half_of_a_pool_can_be_skipped_and_one_more_cannot() -> None:
    bad = {index: Unloadable("gone", "") for index in range(4)}
    half, most = (SampleLedger(torch.zeros(size, dtype=torch.bool), "skip", Accelerator(cpu=True)) for size in (8, 7))
    half.settle("scoring", range(8), torch.arange(8), bad)
    assert half.usable.tolist() == [4, 5, 6, 7]
    with pytest.raises(ValueError, match="That is most of the 7 samples"):
        most.settle("scoring", range(7), torch.arange(7), bad)


def test_too_few_that_can_be_loaded(make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset) -> None:
    trainer = make_trainer(make_vit(), pool=pool, on_bad_sample="skip", selection_budget=SIZE - 1)
    with pytest.raises(ValueError, match="cannot select 59 distinct samples out of 57"):
        trainer.train()


def test_a_file_that_vanishes_in_training(
    make_vit: MakeModel, make_trainer: MakeTrainer, pool: Dataset, folder: Path
) -> None:
    class Vandal(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for path in folder.glob("*.png"):
                path.unlink()

    trainer = make_trainer(make_vit(), [Vandal()], pool=pool, on_bad_sample="skip")
    with pytest.raises(ValueError, match=r"cannot load sample \d+ \(.*png\).*FileNotFoundError.*training can resume"):
        trainer.train()
