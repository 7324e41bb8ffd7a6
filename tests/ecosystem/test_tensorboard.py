"""What a run logs arrives in TensorBoard: read back from the event file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import PreTrainedModel

from vecaf_hf import CEACallback, TextEncoder, VeCAFTrainer

Series = dict[str, list[tuple[int, float]]]


@pytest.fixture
def run(
    make_vit: Callable[..., PreTrainedModel],
    make_trainer: Callable[..., VeCAFTrainer],
    text_encoder: TextEncoder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> tuple[VeCAFTrainer, Series]:
    """A run of two loops of four steps, and each tag's steps and values in its event file."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    options = {"report_to": "tensorboard", "logging_strategy": "epoch", "eval_strategy": "epoch"}
    trainer = make_trainer(make_vit(), [CEACallback(text_encoder)], **options)
    trainer.train()
    (file,) = (tmp_path / "events").iterdir()
    events = EventAccumulator(str(file))
    events.Reload()
    tags = events.Tags()["scalars"]
    return trainer, {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def values(trainer: VeCAFTrainer, key: str) -> list[tuple[int, Any]]:
    return [(log["step"], log[key]) for log in trainer.state.log_history if key in log]


def test_the_selections_figures(run: tuple[VeCAFTrainer, Series]) -> None:
    trainer, series = run
    # Trainer's callback puts all but evaluations under `train/`.
    assert series["train/vecaf/loop"] == [(0, 0.0), (4, 1.0)]
    assert series["train/vecaf/selected"] == [(0, 20.0), (4, 20.0)]
    for name in ("new", "classes", "pool_loss", "selected_loss", "cea_alpha_max", "cea_relative_shift"):
        logged = values(trainer, f"vecaf/{name}")
        assert [step for step, _ in logged] == [0, 4]
        assert series[f"train/vecaf/{name}"] == [(step, pytest.approx(value)) for step, value in logged]


def test_what_the_run_has_cost_at_each_loops_end(run: tuple[VeCAFTrainer, Series]) -> None:
    trainer, series = run
    forward = trainer.meter.forward_flops["full"] / 1e12
    # Passes over 120 samples to score them, and of 4 batches of 8 to train on them, forward and backward.
    assert series["train/vecaf/tflops_score"] == [(4, pytest.approx(120 * forward)), (8, pytest.approx(240 * forward))]
    assert series["train/vecaf/tflops_train"] == [(4, pytest.approx(96 * forward)), (8, pytest.approx(192 * forward))]
    # A loop's own evaluation comes after that.
    assert series["train/vecaf/tflops_evaluate"] == [(8, pytest.approx(40 * forward))]
    kinds = [dict(values) for tag, values in series.items() if tag.startswith("train/vecaf/tflops_")]
    assert [step for step, _ in series["train/vecaf/tflops"]] == [4, 8]
    for step, total in series["train/vecaf/tflops"]:
        assert total == pytest.approx(sum(kind.get(step, 0.0) for kind in kinds), rel=1e-5)


def test_kinds_of_work_that_a_run_does_not_do_are_not_there(run: tuple[VeCAFTrainer, Series]) -> None:
    _, series = run
    assert not any(tag.endswith(("tflops_caption", "tflops_auxiliary")) for tag in series)


def test_loss_and_evaluation(run: tuple[VeCAFTrainer, Series]) -> None:
    trainer, series = run
    for tag, key in (("train/loss", "loss"), ("eval/loss", "eval_loss")):
        logged = values(trainer, key)
        assert [step for step, _ in logged] == [4, 8]
        assert series[tag] == [(step, pytest.approx(value)) for step, value in logged]
