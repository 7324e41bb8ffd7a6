"""Runs of one, two and three processes that many tests look at: a start takes much longer than a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import (
    ACCELERATE,
    ALONE,
    CONFIGS,
    LEARNING,
    OTHERS_CHECKPOINT,
    RESCORED,
    SAMPLED,
    SMALL,
    WEIGHTED,
    Read,
    batches_of,
    reader,
    start,
    torchrun,
)


@pytest.fixture(scope="session")
def folder_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="session")
def two(folder_of_two: Path) -> Read:
    runs = [
        batches_of(6, "plain", *WEIGHTED),
        batches_of(6, "streamed", *WEIGHTED, "--shards", "5"),
        batches_of(6, "evaluated", *WEIGHTED, "--evaluate_first"),
        batches_of(6, "broken", *WEIGHTED, "--bad", "3", "10", "11", "--on_bad_sample", "skip"),
        *(batches_of(6, name, *options) for name, options in RESCORED.items()),
        batches_of(6, "proxy-resumed", *RESCORED["proxy"], "--resume", str(folder_of_two / "proxy/run/checkpoint-2")),
        ["--name", "batchnorm", "--model", "batchnorm"],
    ]
    for name, (size, config) in CONFIGS.items():
        options = [*WEIGHTED, "--accelerator_config", config]
        checkpoint = folder_of_two / name / "run" / "checkpoint-2"
        runs.append(batches_of(int(size), name, *options))
        runs.append(
            batches_of(int(size), f"{name}-resumed", *options, "--resume", str(checkpoint), "--model_seed", "1")
        )
    for name in LEARNING:
        options = ["--strategy", name, "--selection_budget", "4", "--gradient_accumulation_steps", "2"]
        checkpoint = folder_of_two / name / "run" / "checkpoint-2"
        runs.append(batches_of(6, name, *options))
        runs.append(batches_of(6, f"{name}-resumed", *options, "--resume", str(checkpoint), "--model_seed", "1"))
    ended = start(ACCELERATE, folder_of_two, *runs)
    # Where a run could not end, only the tests that look at it fail.
    assert ended.code == 0 or list(folder_of_two.glob("*/error*.txt")), ended.output[-8000:]
    return reader(folder_of_two, 2, ended)


def in_other_numbers(processes: int, folder: Path, folder_of_two: Path) -> Read:
    """The runs of two processes, and runs on next to nothing, in one process or three."""
    size = 12 // processes
    runs = [
        batches_of(size, "plain", *WEIGHTED),
        batches_of(size, "evaluated", *WEIGHTED, "--evaluate_first"),
        batches_of(size, "broken", *WEIGHTED, "--bad", "3", "10", "11", "--on_bad_sample", "skip"),
        *(batches_of(size, name, *options) for name, options in RESCORED.items() if processes == 1),
        batches_of(6 // processes, "small", *SMALL, "--score", "5", "2"),
        batches_of(6 // processes, "tiny", *SMALL, "--selection_budget", "1", *SAMPLED),
        batches_of(6 // processes, "gap", *SMALL, "--score", "0", "3", "6", "--bad", "3", "--on_bad_sample", "skip"),
        batches_of(6, OTHERS_CHECKPOINT, *WEIGHTED, "--resume", str(folder_of_two / "plain" / "run" / "checkpoint-2")),
    ]
    ended = start(ALONE if processes == 1 else torchrun(processes), folder, *runs)
    # The last run must fail.
    assert ended.code != 0
    return reader(folder, processes, ended)


@pytest.fixture(scope="session")
def alone(two: Read, folder_of_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Read:
    return in_other_numbers(1, tmp_path_factory.mktemp("alone"), folder_of_two)


@pytest.fixture(scope="session")
def three(two: Read, folder_of_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Read:
    return in_other_numbers(3, tmp_path_factory.mktemp("three"), folder_of_two)
