"""What goes wrong in one process ends all of them, soon and with a message; and the run can go on from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from launching import ACCELERATE, WEIGHTED, Ended, Read, batches_of, outcomes, reader, same, start, torchrun
from train_two_loops import PATIENCE


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Read:
    folder = tmp_path_factory.mktemp("failed")
    split, uneven = '{"split_batches": true}', '{"even_batches": false}'
    ended = start(
        torchrun(2),
        folder,
        ["--name", "fails", "--strategy", "fails"],
        ["--name", "fails-in-one", "--strategy", "fails_on_last"],
        ["--name", "strays", "--strays_in_loop", "1"],
        batches_of(5, "odd-batch", "--accelerator_config", split),
        batches_of(4, "odd-evaluation", "--accelerator_config", split, "--per_device_eval_batch_size", "5"),
        batches_of(6, "dispatched", "--accelerator_config", '{"dispatch_batches": true}'),
        ["--name", "uneven", "--accelerator_config", uneven],
    )
    assert ended.code != 0
    return reader(folder, 2, ended)


def test_a_strategy_that_fails_ends_both(failed: Read) -> None:
    on_main, on_other = failed("fails", failed=True)
    assert on_main == "ArithmeticError('this strategy always fails')"
    assert on_other.startswith("RuntimeError")
    assert "main process" in on_other


def test_a_strategy_that_fails_in_one_process_ends_both(failed: Read) -> None:
    """While the other waits for its part of the work."""
    on_main, on_other = failed("fails-in-one", failed=True)
    assert on_other == "ArithmeticError('this process always fails')"
    assert on_main.startswith("RuntimeError")
    assert "process 1 failed" in on_main


def test_another_selection_ends_both_and_names_the_loop(failed: Read) -> None:
    for error in failed("strays", failed=True):
        assert error.startswith("RuntimeError")
        assert "loop 1: rank 1 has another selection than rank 0" in error


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("odd-batch", "per_device_train_batch_size is 5"),
        ("odd-evaluation", "per_device_eval_batch_size is 5"),
        ("dispatched", "dispatch_batches"),
        ("uneven", "even_batches"),
    ],
)
def test_batches_that_two_cannot_share_are_refused(failed: Read, name: str, says: str) -> None:
    """A batch that is not divided evenly, in training or evaluation (Trainer finds out when a loop has been trained);
    dispatched batches, which accelerate resumes at the wrong one; shares of several sizes, which end an evaluation."""
    for error in failed(name, failed=True):
        assert error.startswith("ValueError")
        assert says in error


# --- A process that is killed ---


@dataclass(frozen=True)
class Killed:
    """A run whose process 1 died in the middle of a step, and after it was resumed in the middle of a scoring pass; and
    the same run that nothing happened to."""

    ended: dict[str, Ended]
    seconds: dict[str, float]
    resumed: list[dict[str, Any]]
    whole: list[dict[str, Any]]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    ended, seconds = {}, {}
    sizes = (*WEIGHTED, "--dropout", "0.1")
    options = batches_of(6, ".", *sizes)
    # Checkpoints are written after 2, 4 and 6 steps; the second loop begins after 3.
    for seed, (launcher, moment) in enumerate([(torchrun(2), "step:2"), (ACCELERATE, "scoring:3")]):
        resume = ["--resume", "last", "--model_seed", str(seed)] if seed else []
        ended[moment] = start(launcher, folder, [*options, "--dies", moment, *resume])
        seconds[moment] = ended[moment].time - when_died(folder, ended[moment])
        for error in folder.glob("error*.txt"):
            error.unlink()
    end = start(
        torchrun(2), folder, [*options, "--resume", "last", "--model_seed", "2"], batches_of(6, "whole", *sizes)
    )
    assert end.code == 0, end.output[-8000:]
    return Killed(ended, seconds, outcomes(folder, 2, end), outcomes(folder / "whole", 2, end))


def when_died(folder: Path, ended: Ended) -> float:
    assert (folder / "died").exists(), ended.output[-8000:]
    time = (folder / "died").stat().st_mtime
    (folder / "died").unlink()
    return time


@pytest.mark.parametrize("moment", ["step:2", "scoring:3"])
def test_a_process_that_dies_takes_the_run_down(killed: Killed, moment: str) -> None:
    """That none is left over is checked at every start."""
    assert killed.ended[moment].code != 0
    assert "SIGKILL" in killed.ended[moment].output
    assert killed.seconds[moment] < PATIENCE / 2


def test_the_run_goes_on_as_if_no_process_had_died(killed: Killed) -> None:
    for resumed, whole in zip(killed.resumed, killed.whole, strict=True):
        for part in ("selections", "figures", "weights", "aligner", "logs"):
            same(resumed[part], whole[part])
        # Texts were in the cache of the one and not of the other.
        for kind in ("score", "select", "train", "evaluate"):
            assert resumed["work"][kind] == whole["work"][kind]
        assert resumed["trained"] == whole["trained"][4:]
