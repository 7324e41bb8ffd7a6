"""Few samples and short runs train as with Trainer, in as many loops as there are steps, which is told once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from pixels import collate
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from vecaf_hf import VeCAFArguments, VeCAFTrainer

RUNS: dict[str, tuple[int, dict[str, Any], int]] = {
    "fewer samples than a batch": (4, {"num_train_epochs": 3}, 3),
    "one sample": (1, {"num_train_epochs": 1}, 1),
    "two steps": (10, {"num_train_epochs": 1}, 1),
    "two steps in three loops": (10, {"num_train_epochs": 1, "num_loops": 3}, 2),
    "less than an epoch": (40, {"num_train_epochs": 0.1, "num_loops": 3}, 1),
    "fewer steps than loops": (40, {"max_steps": 2, "num_loops": 3}, 2),
    "an update longer than an epoch": (10, {"num_train_epochs": 2, "gradient_accumulation_steps": 16}, 2),
}


@pytest.mark.parametrize(("size", "options", "loops"), RUNS.values(), ids=RUNS)
def test_as_plain(
    make_vit: Callable[..., PreTrainedModel],
    train: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    size: int,
    options: dict[str, Any],
    loops: int,
) -> None:
    run = {"use_cpu": True, "report_to": "none", "remove_unused_columns": False, "save_strategy": "no"}
    pool, folder = train.select(range(size)), str(tmp_path)
    plain_options = {name: value for name, value in options.items() if name != "num_loops"}
    plain_args = TrainingArguments(output_dir=folder, disable_tqdm=True, **run, **plain_options)
    args = (VeCAFArguments if "num_loops" in options else TrainingArguments)(
        output_dir=folder, disable_tqdm=True, **run, **options
    )
    steps, epochs = [], []
    with caplog.at_level(logging.WARNING, "vecaf_hf.loop"):
        for kind, arguments in ((Trainer, plain_args), (VeCAFTrainer, args)):
            trainer = kind(make_vit(), arguments, collate, pool)
            trainer.remove_callback(PrinterCallback)
            steps.append(trainer.train().global_step)
            epochs.append(trainer.state.epoch)
    assert steps[0] == steps[1] and epochs[0] == pytest.approx(epochs[1])
    assert isinstance(trainer, VeCAFTrainer) and len(trainer.loop_records) == loops
    told = [record.getMessage() for record in caplog.records if "make loops of" in record.getMessage()]
    assert len(told) == (options.get("num_loops", loops) != loops)
