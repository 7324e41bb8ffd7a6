"""An epoch is what it is for Trainer: as many evaluations, saves, log lines and callback events, at the same steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pixels import collate
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from vecaf_hf import VeCAFArguments, VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
RUN: dict[str, Any] = {
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "remove_unused_columns": False,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 40,
    "learning_rate": 1e-3,
}
EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]


class Recorder(TrainerCallback):
    """Every event with its step and epoch, and the keys of the log lines that are not ours."""

    def __init__(self) -> None:
        self.events: Counter[tuple[Any, ...]] = Counter()

    def note(self, event: str, state: Any, logs: dict[str, float] | None) -> None:
        keys = tuple(sorted(name for name in logs or {} if not name.startswith("vecaf/")))
        self.events[event, state.global_step, state.epoch, state.num_train_epochs, keys] += 1


def _noting(event: str) -> Callable[..., None]:
    return lambda self, args, state, control, **kwargs: self.note(event, state, kwargs.get("logs"))


for _event in EVENTS:
    setattr(Recorder, _event, _noting(_event))


def train_with(
    kind: type[Trainer],
    model: PreTrainedModel,
    pool: Dataset,
    args: TrainingArguments,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> tuple[Trainer, Recorder, dict[str, float]]:
    recorder = Recorder()
    trainer = kind(model, args, collate, pool, pool.select(range(16)), callbacks=[recorder, *callbacks])
    trainer.remove_callback(PrinterCallback)
    return trainer, recorder, trainer.train().metrics


RUNS: dict[str, dict[str, Any]] = {
    "each epoch": {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "epoch", "logging_steps": 3},
    "one epoch, accumulation does not divide it": {
        "num_train_epochs": 1,
        "gradient_accumulation_steps": 4,
        "eval_strategy": "epoch",
        "logging_strategy": "epoch",
    },
    "part of an epoch": {"num_train_epochs": 2.5, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 4},
    "fewer steps than an epoch": {"max_steps": 2, "logging_steps": 1},
    "steps, the last batch dropped": {"max_steps": 7, "eval_strategy": "epoch", "dataloader_drop_last": True},
    "evaluated before, and with a delay": {
        "num_train_epochs": 3,
        "eval_on_start": True,
        "eval_delay": 2,
        "eval_strategy": "epoch",
        "logging_strategy": "no",
        "save_strategy": "no",
    },
}


@pytest.mark.parametrize("arguments", [TrainingArguments, VeCAFArguments], ids=["plain", "ours"])
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_as_many_events_at_the_same_steps_and_epochs(
    make_vit: MakeModel, train: Dataset, tmp_path: Path, options: dict[str, Any], arguments: type[TrainingArguments]
) -> None:
    pool, plain_args = train.select(range(43)), TrainingArguments(output_dir=str(tmp_path / "a"), **RUN, **options)
    plain, expected, metrics = train_with(Trainer, make_vit(), pool, plain_args)
    args = arguments(output_dir=str(tmp_path / "b"), **RUN, **options)
    ours, found, own_metrics = train_with(VeCAFTrainer, make_vit(), pool, args)
    assert found.events == expected.events
    assert own_metrics.keys() == metrics.keys()
    saved = [sorted(path.name for path in (tmp_path / run).glob("checkpoint-*")) for run in "ab"]
    assert saved[0] == saved[1]
    assert isinstance(ours, VeCAFTrainer) and len(ours.loop_records) == ours.state.num_train_epochs
    # What the loops selected stands in lines that Trainer writes anyway.
    assert [log["step"] for log in ours.state.log_history] == [log["step"] for log in plain.state.log_history]
    assert any("vecaf/loop" in log for log in ours.state.log_history)


def test_early_stopping_stops_at_the_same_step(make_vit: MakeModel, train: Dataset, tmp_path: Path) -> None:
    ends = []
    for kind in (Trainer, VeCAFTrainer):
        # The metric never gets better.
        options = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 10, "learning_rate": 0.0}
        args = TrainingArguments(
            output_dir=str(tmp_path / kind.__name__),
            **{**RUN, **options, "load_best_model_at_end": True, "metric_for_best_model": "loss"},
        )
        patience = EarlyStoppingCallback(early_stopping_patience=2)
        trainer, *_ = train_with(kind, make_vit(), train.select(range(40)), args, (patience,))
        ends.append((trainer.state.global_step, trainer.state.epoch))
    assert ends == [(15, 3.0), (15, 3.0)]


def test_what_is_unfrozen_after_an_epoch_is_unfrozen_at_the_same_step(
    make_vit: MakeModel, train: Dataset, tmp_path: Path
) -> None:
    class Unfreezes(TrainerCallback):
        step = -1

        def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if (state.epoch or 0) >= 1 and self.step < 0:
                self.step = state.global_step
                model.vit.requires_grad_(True)

    steps = []
    for kind in (Trainer, VeCAFTrainer):
        model, unfreezes = make_vit(), Unfreezes()
        model.vit.requires_grad_(False)
        args = TrainingArguments(output_dir=str(tmp_path), save_strategy="no", num_train_epochs=3, **RUN)
        train_with(kind, model, train.select(range(43)), args, (unfreezes,))
        steps.append(unfreezes.step)
    assert steps == [6, 6]


def test_where_loops_are_given_an_epoch_is_still_a_pass_over_the_pool(
    make_vit: MakeModel, train: Dataset, tmp_path: Path
) -> None:
    seen: list[float] = []

    class Looks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(state.epoch)

    options = {"num_train_epochs": 10, "num_loops": 3, "eval_strategy": "epoch", "save_strategy": "epoch"}
    args = VeCAFArguments(output_dir=str(tmp_path), **RUN, **options)
    trainer, *_ = train_with(VeCAFTrainer, make_vit(), train.select(range(40)), args, (Looks(),))
    assert seen == pytest.approx([step / 5 for step in range(1, 51)])
    evaluated = [log["epoch"] for log in trainer.state.log_history if "eval_loss" in log]
    assert evaluated == [17 / 5, 34 / 5, 10.0]
    assert trainer.state.epoch == trainer.state.num_train_epochs == 10


@pytest.mark.parametrize("step", [4, 6, 9])
def test_a_run_that_is_resumed_writes_the_lines_of_one_that_is_not(
    make_vit: MakeModel, train: Dataset, tmp_path: Path, step: int
) -> None:
    """Also where a loop's figures wait for a line when the checkpoint is written."""
    lines, weights = [], []
    for start in (None, str(tmp_path / f"checkpoint-{step}")):
        args = VeCAFArguments(
            output_dir=str(tmp_path), num_train_epochs=2, eval_strategy="epoch", **RUN, save_steps=1, logging_steps=5
        )
        trainer = VeCAFTrainer(make_vit(), args, collate, train.select(range(43)), train.select(range(16)))
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=start)
        told = [
            {name: value for name, value in log.items() if not name.endswith(("_runtime", "_per_second", "_flos"))}
            for log in trainer.state.log_history
        ]
        lines.append(told[:-1])
        weights.append(trainer.model.state_dict())
    assert lines[0] == lines[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
