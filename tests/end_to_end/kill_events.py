"""The moments of a run at which `killable_run.py` can end its process: events, counted by phase, not clock times.

A moment is a phase and the number of the event in it, so that the same run is killed at the same place again.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from transformers.trainer_callback import CallbackHandler

from vecaf_hf import VeCAFTrainer
from vecaf_hf.loop import LoopBoundaryCallback
from vecaf_hf.loop import selector as reselection
from vecaf_hf.scoring.forward_pass import ForwardPass
from vecaf_hf.selection import descent

# In a loop: before a batch, and between an optimizer step and what is logged and saved of it.
LOOP = "loop"
# Before and after what happens where a loop begins, and where it ends.
BOUNDARY = "boundary"
# Before a batch of the scoring pass; the samples tried before the run count too.
SCORING = "scoring"
# Before a strategy, and before each optimisation step of ODS.
SELECTION = "selection"
# Before a batch of the evaluation, and before the best metric is settled.
EVALUATION = "evaluation"
# Of each file that is written into the run's folder: nothing of it is there; half of it is; all of it is.
BEFORE_FILE, TORN_FILE, AFTER_FILE = "before a file", "torn file", "after a file"
# Before an old checkpoint is removed, with half of its files removed, with the other half, after.
ROTATION = "rotation"
# The last checkpoint is there, and the best model is still to be loaded or the run to be ended.
END = "end"

PHASES = (
    *(LOOP, BOUNDARY, SCORING, SELECTION, EVALUATION),
    *(BEFORE_FILE, TORN_FILE, AFTER_FILE, ROTATION, END),
)

Moment = tuple[str, int]


class Events:
    """Counts events by phase, and ends the process without warning at one of them.

    Args:
        folder: The run's; only files in it are watched.
        fatal: Phase and number, from 1, of the event that is not survived; None to count only.
    """

    def __init__(self, folder: Path, fatal: Moment | None) -> None:
        self.folder, self.fatal = folder, fatal
        self.counts: Counter[str] = Counter()

    def is_fatal(self, phase: str) -> bool:
        self.counts[phase] += 1
        return (phase, self.counts[phase]) == self.fatal

    def happen(self, phase: str) -> None:
        if self.is_fatal(phase):
            die()

    def concern(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and Path(path).is_relative_to(self.folder)

    def written(self, path: Any) -> None:
        if self.is_fatal(TORN_FILE):
            os.truncate(path, os.path.getsize(path) // 2)
            die()
        self.happen(AFTER_FILE)

    def watch(self) -> None:
        """Count from now on, to the end of the process."""
        self._watch(VeCAFTrainer, "training_step", LOOP)
        self._watch(CallbackHandler, "on_step_end", LOOP)
        self._watch(LoopBoundaryCallback, "on_epoch_begin", BOUNDARY, after=True)
        self._watch(LoopBoundaryCallback, "on_epoch_end", BOUNDARY, after=True)
        self._watch(ForwardPass, "_forward_batch", SCORING)
        self._watch(reselection, "run_strategy", SELECTION)
        self._watch(descent._Descent, "step", SELECTION)
        self._watch(VeCAFTrainer, "prediction_step", EVALUATION)
        self._watch(VeCAFTrainer, "_determine_best_metric", EVALUATION)
        self._watch(VeCAFTrainer, "_load_best_model", END)
        self._watch(CallbackHandler, "on_train_end", END)
        for owner, name in ((torch, "save"), (safetensors.torch, "serialize_file")):
            setattr(owner, name, self._writing(getattr(owner, name)))
        builtins.open = io.open = self._opening(io.open)
        shutil.rmtree = self._removing(shutil.rmtree)

    def _watch(self, owner: Any, name: str, phase: str, after: bool = False) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.happen(phase)
            result = function(*args, **kwargs)
            if after:
                self.happen(phase)
            return result

        setattr(owner, name, watched)

    def _writing(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def writing(content: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            if not self.concern(path):
                return write(content, path, *args, **kwargs)
            self.happen(BEFORE_FILE)
            write(content, path, *args, **kwargs)
            self.written(path)

        return writing

    def _opening(self, open_file: Callable[..., Any]) -> Any:
        @wraps(open_file)
        def opening(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode.startswith("r") or not self.concern(path):
                return open_file(path, mode, *args, **kwargs)
            self.happen(BEFORE_FILE)
            file = open_file(path, mode, *args, **kwargs)
            close = file.close

            def closing() -> None:
                if not file.closed:
                    close()
                    self.written(path)

            file.close = closing
            return file

        return opening

    def _removing(self, remove: Callable[..., Any]) -> Any:
        @wraps(remove)
        def removing(path: Any, *args: Any, **kwargs: Any) -> None:
            if not self.concern(path):
                return remove(path, *args, **kwargs)
            self.happen(ROTATION)
            files = sorted(file for file in Path(path).rglob("*") if file.is_file())
            for half in (files[: len(files) // 2], files[len(files) // 2 :]):
                if self.is_fatal(ROTATION):
                    for file in half:
                        file.unlink()
                    die()
            remove(path, *args, **kwargs)
            self.happen(ROTATION)

        return removing


def die() -> NoReturn:
    """What a preempted machine does: no handler, no `finally`, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")
