"""Runs whose results a folder keeps: each is done once, by whichever of several processes comes first, and what was
stopped is taken up anywhere."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from transformers import TrainerCallback

from vecaf_hf.cli.terminal import Interrupted
from vecaf_hf.data.whole_files import write_whole
from vecaf_hf.trainer import VeCAFTrainer

logger = logging.getLogger(__name__)

# Seconds until another look, while other processes are at all that is left.
WAITING = 5
# Work that is not done for its own sake: other work is what it is paid with.
NOT_COUNTED = {"evaluate"}

C = TypeVar("C")


class Cells(Protocol, Generic[C]):
    """Runs by their cells: what is missing, and how it is done."""

    def missing(self) -> list[C]:
        """What can be done now."""

    def left(self) -> int:
        """Runs without a result, with those that are not known yet."""

    def file(self, cell: C) -> Path:
        """Where a cell's result is kept."""

    def do(self, cell: C) -> None:
        """Do what is missing of a cell, and keep it."""


def work_off(cells: Cells[C], what: str) -> list[C]:
    """Do what is missing until nothing is, beside other processes: progress and time left are of all of them. What
    fails is logged and not tried again; returns it."""
    failed: list[C] = []
    total = cells.left()
    with tqdm(desc=what, unit="run", total=total) as progress:
        while due := [cell for cell in cells.missing() if cell not in failed]:
            progress.n = total - cells.left()
            progress.refresh()
            if not any(_done_by_us(cells, cell, failed) for cell in due):
                time.sleep(WAITING)
        progress.n = total - cells.left()
    return failed


def _done_by_us(cells: Cells[C], cell: C, failed: list[C]) -> bool:
    """Do a cell's work, unless another process does it or has done it."""
    file = cells.file(cell).with_suffix(".lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Of the operating system's: a killed process holds none.
        with FileLock(file, timeout=0):
            if cell not in cells.missing():
                return False
            try:
                cells.do(cell)
            except Exception:
                logger.exception("%s failed", cells.file(cell).with_suffix(""))
                failed.append(cell)
            return True
    except Timeout:
        return False


def keep(file: Path, values: Mapping[str, Any]) -> None:
    """Write a result, whole or not at all."""
    write_whole(file, lambda path: path.write_text(json.dumps(values)))


@contextmanager
def going_on() -> Iterator[None]:
    """Where the block is stopped, it is told that the work goes on when it is started again."""
    try:
        yield
    except KeyboardInterrupt:
        again = "stopped: started again, it goes on with the runs that are missing"
        raise Interrupted(again, signal.SIGINT) from None


class Curve(TrainerCallback):
    """Validation accuracy and loss, and all work so far, at every evaluation of a run."""

    def __init__(self, trainer: VeCAFTrainer) -> None:
        self.trainer = trainer
        self.points: list[dict[str, Any]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.points.append(self.point(state.global_step, kwargs["metrics"]))

    def point(self, step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        work = self.trainer.meter.state_dict()["work"]
        return {"step": step, "accuracy": metrics["eval_accuracy"], "loss": metrics["eval_loss"], "work": work}


def cost(work: Mapping[str, Mapping[str, float]]) -> float:
    """FLOPs of all work but evaluation."""
    return sum(part["flops"] for kind, part in work.items() if kind not in NOT_COUNTED)
