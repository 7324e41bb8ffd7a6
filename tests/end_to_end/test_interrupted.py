"""Runs that a signal stops: a checkpoint, one line that says how to go on, and then the run that was not stopped."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_processes import ROOT, environment
from resumed_runs import assert_same_run
from safetensors.torch import load_file
from transformers import PreTrainedModel, TrainerCallback, ViTImageProcessor

from vecaf_hf import VeCAFTrainer
from vecaf_hf.checkpoint.files import whole_checkpoints
from vecaf_hf.cli.interruption import interruptible
from vecaf_hf.cli.resume_command import shortened
from vecaf_hf.cli.terminal import Interrupted

MakeTrainer = Callable[..., VeCAFTrainer]
SCRIPT = Path(__file__).with_name("interrupted_run.py")
TIMEOUT = 900


class Signal(TrainerCallback):
    """Comes while a step is trained."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


def stopped(trainer: VeCAFTrainer) -> Interrupted:
    with pytest.raises(Interrupted) as end, interruptible(trainer, "again"):
        trainer.train()
    return end.value


BEST = {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    # The step in which the signal comes, the one after which the run stops, and how it saves by itself.
    "inside a loop": (2, 2, {}),
    "a loop's end": (4, 4, {}),
    "the run's end": (8, 8, {}),
    "of several checkpoints": (6, 6, {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}),
    "by epoch": (3, 3, {"save_strategy": "epoch"}),
    "by the best": (3, 3, {**BEST, "eval_delay": 4}),
    "the best is kept": (6, 6, {"save_strategy": "epoch", "load_best_model_at_end": True, "save_total_limit": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    make_vit: Callable[..., PreTrainedModel], make_trainer: MakeTrainer, tmp_path: Path, case: str
) -> None:
    comes, stops, saving = CASES[case]

    def trainer(folder: str, seed: int = 0, *extra: TrainerCallback) -> VeCAFTrainer:
        options = {"eval_strategy": "epoch", **saving, "output_dir": str(tmp_path / folder)}
        return make_trainer(make_vit(seed, hidden_dropout_prob=0.1), [*extra], **options)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    end = stopped(trainer("stopped", 0, Signal(comes)))
    assert str(end) == f"stopped after step {stops} of 8; again"
    assert end.number == signal.SIGINT
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert whole_checkpoints(tmp_path / "stopped")[-1].name == f"checkpoint-{stops}"

    whole, resumed = trainer("whole"), trainer("stopped", 7)
    whole.train()
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(whole, resumed)


def test_a_save_that_the_best_metric_takes_back_comes_a_step_later(make_vit, make_trainer, tmp_path):
    """After each evaluation that is no better, save_strategy="best" forbids what others have asked for."""
    worse = {**BEST, "greater_is_better": True, "eval_steps": 2}
    end = stopped(make_trainer(make_vit(), [Signal(6, signal.SIGTERM)], **worse))
    assert (str(end), end.number) == ("stopped after step 7 of 8; again", signal.SIGTERM)
    assert whole_checkpoints(tmp_path / "run")[-1].name == "checkpoint-7"


def test_a_checkpoint_of_the_model_alone_is_not_said_to_go_on(make_vit, make_trainer):
    end = stopped(make_trainer(make_vit(), [Signal(2)], save_only_model=True))
    assert "the run cannot go on" in str(end) and "again" not in str(end)


def test_a_signal_before_the_first_step_acts_as_ever(make_vit, make_trainer):
    class Early(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    trainer = make_trainer(make_vit(), [Early()])
    with pytest.raises(KeyboardInterrupt), interruptible(trainer):
        trainer.train()


def test_without_a_signal_nothing_changes(make_vit, make_trainer, tmp_path):
    trainer, plain = make_trainer(make_vit()), make_trainer(make_vit())
    with interruptible(trainer):
        trainer.train()
    plain.train()
    assert_same_run(plain, trainer)
    assert not whole_checkpoints(tmp_path / "run")
    kinds = [[type(one) for one in run.callback_handler.callbacks] for run in (trainer, plain)]
    assert kinds[0] == kinds[1]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# --- In a terminal ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, set_seed

    folder = tmp_path_factory.mktemp("model")
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=32, patch_size=16, hidden_dropout_prob=0.1, **sizes)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def options_of(model: Path, output: Path, **more: Any) -> list[str]:
    options = {
        "dataset_name": ROOT / "recipes/data/fashion_mnist",
        "validation_split": "validation",
        "model_name_or_path": model,
        "text_encoder": "none",
        "image_size": 32,
        "max_train_samples": 80,
        "selection_budget": 20,
        "max_steps": 12,
        "num_loops": 2,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 500,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "output_dir": output,
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        **more,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def started(command: list[str], home: Path, *signals: str) -> subprocess.CompletedProcess[str]:
    with_signals = environment(home) | {"SIGNALS": " ".join(signals)}
    return subprocess.run(
        command, env=with_signals, cwd=home, capture_output=True, text=True, timeout=TIMEOUT, start_new_session=True
    )


def left_behind(folder: Path) -> dict[str, Any]:
    """What a run's folder holds, but for times and for the last log's mean over one process's steps."""
    state, trainer = (json.loads((folder / f"{name}_state.json").read_text()) for name in ("vecaf", "trainer"))
    drop = ("_runtime", "_per_second", "_time")
    logs = [
        {name: value for name, value in log.items() if not name.endswith(drop) and name != "train_loss"}
        for log in trainer["log_history"]
    ]
    return {
        "weights": {name: values.tolist() for name, values in load_file(folder / "model.safetensors").items()},
        "logs": logs,
        "loops": state["loops"],
        "test": json.loads((folder / "test_results.json").read_text())["test_loss"],
    }


def command_in(done: subprocess.CompletedProcess[str], step: int) -> list[str]:
    """Of the one line that says how to go on."""
    said = re.findall(rf"^interrupted_run.py: stopped after step {step} of 12; to go on: (.+)$", done.stderr, re.M)
    assert len(said) == 1 and "Traceback (most recent call last):\n  File" not in of_the_run(done.stderr), done.stderr
    return shlex.split(said[0])


def of_the_run(text: str) -> str:
    """Without what the launcher says when a process has ended."""
    return re.split(r"^.*torch.distributed.elastic|^Traceback .*\n  File .*accelerate", text, flags=re.M)[0]


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("alone")
    done = started([sys.executable, str(SCRIPT), *options_of(model, home / "run")], home)
    assert done.returncode == 0, done.stderr[-4000:]
    return left_behind(home / "run")


@pytest.mark.parametrize(
    ("name", "who", "step", "workers"),
    [("SIGTERM", "group", 2, 1), ("SIGINT", "0", 9, 0)],
)
def test_a_recipe_says_how_to_go_on_and_goes_on(
    model: Path, alone: dict[str, Any], tmp_path: Path, name: str, who: str, step: int, workers: int
) -> None:
    """A terminal's Ctrl-C, and a launcher's signal, reach the loader's workers too."""
    number = int(signal.Signals[name])
    command = [sys.executable, str(SCRIPT), *options_of(model, tmp_path / "run", dataloader_num_workers=workers)]
    done = started(command, tmp_path, f"{step}:{number}:{who}")
    assert done.returncode == 128 + number, done.stderr[-4000:]
    assert "stopping after this step" in done.stderr
    again = command_in(done, step)
    assert again[-len(command) - 1 :] == [*command[1:], "--resume_from_checkpoint", "true"]
    done = started(again, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert left_behind(tmp_path / "run") == alone


def test_a_second_signal_stops_at_once(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *options_of(model, tmp_path / "run")]
    done = started(command, tmp_path, "2:2:0", "2:2:0")
    assert done.returncode == -signal.SIGINT
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_two_processes_stop_after_the_same_step_and_one_speaks(model: Path, tmp_path: Path) -> None:
    """Only the second process gets a signal."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT)]
    options = options_of(model, tmp_path / "run", per_device_train_batch_size=4)
    done = started([*launcher, *options], tmp_path, "2:15:1")
    assert done.returncode == 1 and re.search(r"exitcode *: 143", done.stderr), done.stderr[-4000:]
    assert command_in(done, 2) == [*shortened(launcher), *options, "--resume_from_checkpoint", "true"]
    # That two go on from it to the same end: tests/distributed.
    assert [folder.name for folder in whole_checkpoints(tmp_path / "run")] == ["checkpoint-2"]
