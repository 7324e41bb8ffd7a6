"""Starts train_two_loops.py in one or more processes, and reads what each of them wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from own_processes import environment

SCRIPT = Path(__file__).parent / "train_two_loops.py"
ALONE = [sys.executable]
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]
# Generous: what matters is that it ends.
TIMEOUT = 900
# Weights of samples and accumulation: means over a step that all processes must take together. In every launch a
# micro-batch is of 12 samples, however many processes share it.
WEIGHTED = ["--strategy", "weighted_ods", "--gradient_accumulation_steps", "2"]
SMALL = ["--pool", "7", "--selection_budget", "4", "--evaluation", "7", "--per_device_eval_batch_size", "2"]
SAMPLED = ["--rescore", "sampled", "--scoring_fraction", "0.3"]
# Runs whose second selection follows what training has seen of each sample, in whichever process.
RESCORED = {
    "stale": [*WEIGHTED, "--rescore", "stale", "--scoring_fraction", "0.2"],
    "proxy": ["--rescore", "proxy"],
    "half": ["--more", '{"half_embeddings": true}'],
    "bf16": ["--more", '{"scoring_bf16": true}'],
    "infobatch": ["--strategy", "infobatch"],
    "jtt": ["--strategy", "jtt"],
}
# Strategies with networks that learn beside the model.
LEARNING = ["learn_loss", "ta_vaal"]
# What accelerator_config can say, with the batch that a process is then told to have.
CONFIGS = {
    "split": ("12", '{"split_batches": true}'),
    "split-dispatched": ("12", '{"split_batches": true, "dispatch_batches": true}'),
    "even": ("6", '{"even_batches": true}'),
}
# The best of a run's models is its last word.
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "cross_entropy", "greater_is_better": False}
OTHERS_CHECKPOINT = "resumed-from-two"

Read = Callable[..., list[Any]]


def torchrun(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


@dataclass(frozen=True)
class Ended:
    """A launcher that has come to its end, and when."""

    code: int
    output: str
    time: float


def start(launcher: list[str], folder: Path, *runs: list[str], **variables: str) -> Ended:
    """These runs, one after another in the same processes, all of which have ended with the launcher; with these
    variables in their environment."""
    folder.mkdir(exist_ok=True)
    words = [word for options in runs for word in ("+", *options)][1:]
    running = subprocess.Popen(
        [*launcher, str(SCRIPT), str(folder), *words],
        env=environment(folder) | variables,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = running.communicate(timeout=TIMEOUT)
        ended = Ended(running.returncode, output, time.time())
    except subprocess.TimeoutExpired:
        for process in started_in(folder):
            process.kill()
        output, _ = running.communicate()
        pytest.fail(f"did not end within {TIMEOUT} seconds\n{output[-8000:]}")
    left_over = started_in(folder)
    for process in left_over:
        process.kill()
    assert not left_over, output[-8000:]
    return ended


def started_in(folder: Path) -> list[psutil.Process]:
    """Processes with this folder in their command: the launcher, and those that it put into sessions of their own."""
    return [process for process in psutil.process_iter(["cmdline"]) if str(folder) in (process.info["cmdline"] or ())]


def outcomes(folder: Path, processes: int, ended: Ended) -> list[dict[str, Any]]:
    """What each process wrote of a run."""
    paths = [folder / f"rank{rank}.pt" for rank in range(processes)]
    assert all(path.exists() for path in paths), ended.output[-8000:]
    return [torch.load(path, weights_only=True) for path in paths]


def errors(folder: Path, processes: int, ended: Ended) -> list[str]:
    """Why each process could not end a run."""
    paths = [folder / f"error{rank}.txt" for rank in range(processes)]
    assert all(path.exists() for path in paths), ended.output[-8000:]
    assert not list(folder.glob("rank*.pt"))
    return [path.read_text() for path in paths]


def batches_of(size: int, name: str, *options: str) -> list[str]:
    return ["--name", name, "--per_device_train_batch_size", str(size), *options]


def with_arguments(name: str, *options: str, **values: Any) -> list[str]:
    return batches_of(6, name, *options, "--more", json.dumps(values))


def reader(folder: Path, processes: int, ended: Ended) -> Read:
    """What the processes wrote of a run, by its name; with `failed`, why they could not end it."""

    def read(name: str, failed: bool = False) -> list[Any]:
        return (errors if failed else outcomes)(folder / name, processes, ended)

    return read


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def assert_goes_on(read: Read, name: str, trained: int) -> None:
    """After 2 of 6 steps, in the middle of the first loop, as if nothing had happened."""
    for resumed, run in zip(read(f"{name}-resumed"), read(name), strict=True):
        for part in ("weights", "aligner", "selections", "logs"):
            same(resumed[part], run[part])
        assert resumed["trained"] == run["trained"][trained:]
