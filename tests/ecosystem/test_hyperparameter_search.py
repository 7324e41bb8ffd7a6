"""A search by optuna: each trial is a run of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import BestRun

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]
TRIALS = [{"learning_rate": 1e-4, "selection_fraction": 0.1}, {"learning_rate": 1e-2, "selection_fraction": 0.25}]
OPTIONS = {"selection_budget": None, "selection_fraction": 0.5, "eval_strategy": "epoch", "save_strategy": "epoch"}


class Trials(TrainerCallback):
    """Of each run: what it trained, selected and counted when it had ended, and what was there as it began."""

    def __init__(self) -> None:
        self.trainer: VeCAFTrainer | None = None
        self.begun: list[tuple[int, int]] = []
        self.ended: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        self.begun.append((len(self.trainer.selection_history), self.trainer.meter.work["train"].samples))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        assert trainer is not None
        weights = trainer.model.state_dict()
        self.ended.append(
            {
                "learning_rate": args.learning_rate,
                "selections": [selection.indices for selection in trainer.selection_history],
                "records": trainer.loop_records,
                "samples": {kind: work.samples for kind, work in trainer.meter.work.items()},
                "losses": [log["loss"] for log in state.log_history if "loss" in log],
                "weights": {name: values.clone() for name, values in weights.items()},
            }
        )


@pytest.fixture
def searched(
    make_vit: MakeModel, make_trainer: MakeTrainer, text_encoder: TextEncoder
) -> tuple[list[dict[str, Any]], list[tuple[int, int]], BestRun]:
    """Each trial's end and beginning, and the best run, of a search over both TRIALS."""
    trials = Trials()
    trainer = make_trainer(
        None, [CEACallback(text_encoder), trials], trainer={"model_init": lambda: make_vit()}, **OPTIONS
    )
    trials.trainer = trainer

    def space(trial: optuna.Trial) -> dict[str, float]:
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        return {"learning_rate": rate, "selection_fraction": trial.suggest_float("selection_fraction", 0.05, 0.5)}

    class GivenTrials(optuna.samplers.RandomSampler):
        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> float:
            return TRIALS[trial.number][name]

    best = trainer.hyperparameter_search(space, n_trials=2, backend="optuna", sampler=GivenTrials())
    assert isinstance(best, BestRun)
    return trials.ended, trials.begun, best


def test_each_trial_begins_fresh_and_with_its_own_options(
    searched: tuple[list[dict[str, Any]], list[tuple[int, int]], BestRun],
) -> None:
    ended, begun, _ = searched
    assert begun == [(0, 0), (0, 0)]
    assert [trial["learning_rate"] for trial in ended] == [1e-4, 1e-2]
    # 0.1 and 0.25 of 120 samples, in two loops each.
    assert [[len(indices) for indices in trial["selections"]] for trial in ended] == [[12, 12], [30, 30]]
    for trial in ended:
        assert [record.loop for record in trial["records"]] == [0, 1]
        assert trial["records"][0].new == trial["records"][0].selected
        assert (trial["samples"]["score"], trial["samples"]["train"]) == (240, 64)


def test_a_trial_is_what_the_same_run_without_a_search_is(
    searched: tuple[list[dict[str, Any]], list[tuple[int, int]], BestRun],
    make_vit: MakeModel,
    make_trainer: MakeTrainer,
    text_encoder: TextEncoder,
    tmp_path: Path,
) -> None:
    (_, second), _, _ = searched
    options = {**OPTIONS, **TRIALS[1], "output_dir": str(tmp_path / "alone")}
    alone = make_trainer(None, [CEACallback(text_encoder)], trainer={"model_init": lambda: make_vit()}, **options)
    alone.train()
    assert second["losses"] == [log["loss"] for log in alone.state.log_history if "loss" in log]
    for mine, yours in zip(second["selections"], alone.selection_history, strict=True):
        assert torch.equal(mine, yours.indices)
    for name, values in alone.model.state_dict().items():
        assert torch.equal(values, second["weights"][name]), name


def test_the_best_trial_is_the_one_with_the_lowest_loss(
    searched: tuple[list[dict[str, Any]], list[tuple[int, int]], BestRun], tmp_path: Path
) -> None:
    _, _, best = searched
    assert best.hyperparameters == TRIALS[int(best.run_id)]
    assert math.isfinite(best.objective)
    for number in range(2):
        assert sorted(path.name for path in (tmp_path / "run" / f"run-{number}").glob("checkpoint-*")) == [
            "checkpoint-4",
            "checkpoint-8",
        ]
