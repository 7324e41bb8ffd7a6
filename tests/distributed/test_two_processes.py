"""Two real processes (gloo, on the CPU) against one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent / "train_two_loops.py"
ROOT = Path(__file__).parents[2]
ALONE = [sys.executable]
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Weights of samples and accumulation: means over a step that two processes must take together.
OPTIONS = ["--sample_weights", "mass", "--gradient_accumulation_steps", "2"]
# Generous: what matters is that it ends.
TIMEOUT = 150


def start(launcher: list[str], folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }
    folder.mkdir(exist_ok=True)
    command = [*launcher, str(SCRIPT), str(folder), *options]
    # A session of its own, so that a run that hangs takes its processes with it.
    running = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = running.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        output, errors = running.communicate()
        pytest.fail(f"did not end within {TIMEOUT} seconds\n{output[-2000:]}{errors[-6000:]}")
    return subprocess.CompletedProcess(command, running.returncode, output, errors)


def results(launcher: list[str], folder: Path, *options: str) -> list[dict[str, Any]]:
    """What each process wrote."""
    done = start(launcher, folder, *options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process with the batch of both."""
    (only,) = results(ALONE, tmp_path_factory.mktemp("alone"), *OPTIONS, "--per_device_train_batch_size", "8")
    assert only["world"] == 1
    return only


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("both")


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    found = results(ACCELERATE, folder, *OPTIONS)
    assert [rank["world"] for rank in found] == [2, 2]
    return found


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_both_select_the_same(both: list[dict[str, Any]]) -> None:
    assert len(both[0]["selections"]) == 2
    same(both[0]["selections"], both[1]["selections"])
    assert both[0]["figures"] == both[1]["figures"]


def test_scores_are_those_of_one_process(both: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for rank in both:
        torch.testing.assert_close(rank["scores"], alone["scores"], rtol=1e-5, atol=1e-5)
    same(both[0]["scores"], both[1]["scores"])


def test_first_selection_is_that_of_one_process(both: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    same(both[0]["selections"][0], alone["selections"][0])


def test_the_run_is_that_of_one_process(both: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Two halves of a batch have the mean gradient of the whole, so all that follows agrees too."""
    same(both[0]["selections"][1], alone["selections"][1])
    torch.testing.assert_close(both[0]["weights"], alone["weights"], rtol=1e-3, atol=1e-4)


def test_both_end_with_the_same_model(both: list[dict[str, Any]]) -> None:
    same(both[0]["weights"], both[1]["weights"])
    same(both[0]["aligner"], both[1]["aligner"])


def test_together_they_pass_over_the_selection(both: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for loop in range(2):
        batches = range(6 * loop, 6 * loop + 6)
        samples = [index for batch in batches for rank in both for index in rank["trained"][batch]]
        chosen = both[0]["selections"][loop].tolist()
        assert len(samples) == 48
        for start in range(0, 48, len(chosen)):
            turn = samples[start : start + len(chosen)]
            assert len(set(turn)) == len(turn)
            assert set(turn) <= set(chosen)
    assert [sorted(one + other) for one, other in zip(*(rank["trained"] for rank in both), strict=True)] == [
        sorted(batch) for batch in alone["trained"]
    ]


def test_a_resumed_run_ends_as_the_uninterrupted(both: list[dict[str, Any]], folder: Path, tmp_path: Path) -> None:
    # After 2 of 6 steps, in the middle of the first loop.
    checkpoint = str(folder / "run" / "checkpoint-2")
    for rank, resumed in enumerate(results(TORCHRUN, tmp_path / "resumed", *OPTIONS, "--resume", checkpoint)):
        same(resumed["selections"], both[rank]["selections"])
        same(resumed["weights"], both[rank]["weights"])
        assert resumed["trained"] == both[rank]["trained"][4:]


def test_batchnorm_and_a_learned_alignment_agree(tmp_path: Path) -> None:
    one, other = results(TORCHRUN, tmp_path / "out", "--model", "batchnorm", "--alignment", "learned")
    same(one["selections"], other["selections"])
    assert one["figures"] == other["figures"]
    same(one["aligner"], other["aligner"])
    trained = {name for name in one["weights"] if "running" not in name}
    same({name: one["weights"][name] for name in trained}, {name: other["weights"][name] for name in trained})


def test_a_strategy_that_fails_ends_both(tmp_path: Path) -> None:
    done = start(TORCHRUN, tmp_path / "out", "--strategy", "fails")
    assert done.returncode != 0
    on_main, on_other = ((tmp_path / "out" / f"error{rank}.txt").read_text() for rank in (0, 1))
    assert on_main == "ArithmeticError('this strategy always fails')"
    assert on_other.startswith("RuntimeError")
    assert "main process" in on_other
    assert not list((tmp_path / "out").glob("rank*.pt"))
