"""A run as its folder tells it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.trainer import TRAINER_STATE_NAME

from vecaf_hf.checkpoint.files import find_damage, is_readable, whole_checkpoints
from vecaf_hf.conditions.stored import Failing, read_conditions
from vecaf_hf.cost import KINDS, Work
from vecaf_hf.loop import LoopRecord, RunState
from vecaf_hf.loop.state import JSON_FILE, TENSORS_FILE
from vecaf_hf.selection import Selection


@dataclass(frozen=True)
class FinishedRun:
    """What a run's folder holds; empty where it holds none.

    Args:
        folder: The run's.
        source: The folder that its loops were read from: its own, or that of its last whole checkpoint.
        step: Optimizer steps that were done when that was written.
        total_steps: Of the run.
        pool_size: N.
        strategy: Its name.
        has_cea: Whether embeddings were augmented.
        selections: One a loop.
        records: One a loop.
        history: Trainer's log.
        work: By kind, as the meter has it.
        attention: Alpha of Eq. 8 of the samples selected in the last loop, where a checkpoint has it. [K].
        class_names: Of the model.
        missing: What the folder lacks, in sentences.
        failing: The conditions under which it fails, where they were looked for.
    """

    folder: Path
    source: Path
    step: int
    total_steps: int
    pool_size: int
    strategy: str
    has_cea: bool
    selections: list[Selection]
    records: list[LoopRecord]
    history: list[dict[str, Any]]
    work: dict[str, dict[str, Any]]
    attention: Tensor | None = None
    class_names: list[str] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    failing: Failing | None = None


def read_run(folder: str | Path) -> FinishedRun:
    """The run of a folder, `output_dir` or one of its checkpoints.

    Args:
        folder: Where it is.

    Raises:
        ValueError: The folder has neither the state that `save_state()` writes nor a whole checkpoint of VeCAFTrainer;
            a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give a run's output_dir")
    checkpoint = _last_checkpoint(folder)
    source = _source(folder, checkpoint)
    places = [place for place in (source, folder, checkpoint) if place is not None]
    _check_whole(
        path for place in places for path in (place / JSON_FILE, place / TENSORS_FILE, place / TRAINER_STATE_NAME)
    )
    values = json.loads((source / JSON_FILE).read_text())
    identity = values.get("identity", {})
    state = RunState.load(source, identity)
    missing: list[str] = []
    history = _history(places, missing)
    if not state.cost.get("work"):
        missing.append("No costs were written.")
    attention = state.augmentation.get("alpha")
    if attention is None and checkpoint is not None and _is_same_run(checkpoint, state.run):
        attention = RunState.load(checkpoint, identity).augmentation.get("alpha")
    has_cea = any(name.startswith("cea.") for name in identity)
    if has_cea and attention is None:
        missing.append("The attention on each sample (alpha) is held by checkpoints alone, and there is none.")
    total = int(identity.get("total_updates", state.step))
    if state.step < total:
        missing.append(f"The state is of step {state.step} of {total}: what came after it is not shown.")
    return FinishedRun(
        folder=folder,
        source=source,
        step=state.step,
        total_steps=total,
        pool_size=int(identity.get("pool_size", 0)),
        strategy=str(identity.get("strategy", "")),
        has_cea=has_cea,
        selections=state.selections,
        records=state.records,
        history=history,
        work=state.cost.get("work") or {kind: vars(Work()) for kind in KINDS},
        attention=attention,
        class_names=_class_names(places, missing),
        missing=tuple(missing),
        failing=read_conditions(folder),
    )


def overlaps(selections: Sequence[Selection]) -> list[list[float]]:
    """The part of each loop's selection (row) that another loop (column) selected too. [L][L]."""
    return [
        [float(torch.isin(one.indices, other.indices).float().mean()) for other in selections] for one in selections
    ]


def covered(selections: Sequence[Selection]) -> list[int]:
    """Different samples that were selected up to each loop. [L]."""
    seen, counts = torch.empty(0, dtype=torch.long), []
    for selection in selections:
        seen = torch.cat([seen, selection.indices]).unique()
        counts.append(len(seen))
    return counts


def _last_checkpoint(folder: Path) -> Path | None:
    """The last whole one in a run's folder, or the folder itself where it is one."""
    if (folder / JSON_FILE).is_file() and find_damage(folder) is None:
        return folder
    return max(whole_checkpoints(folder), key=_written, default=None)


def _written(checkpoint: Path) -> float:
    return (checkpoint / JSON_FILE).stat().st_mtime


def _source(folder: Path, checkpoint: Path | None) -> Path:
    """Where the loops are told: what was written last."""
    has_own = (folder / JSON_FILE).is_file() and (folder / TENSORS_FILE).is_file()
    if not has_own and checkpoint is None:
        raise ValueError(
            f"{folder} has neither {JSON_FILE} nor a whole checkpoint: give the output_dir of a VeCAFTrainer that has "
            "saved a checkpoint, or whose save_state() was called (a recipe does it at the end)"
        )
    if checkpoint is None or (has_own and _written(folder) >= _written(checkpoint)):
        return folder
    return checkpoint


def _check_whole(files: Iterable[Path]) -> None:
    for path in files:
        if path.is_file() and not is_readable(path):
            raise ValueError(f"{path} is damaged: remove it, or give one of the run's checkpoint-N folders")


def _is_same_run(checkpoint: Path, run: str) -> bool:
    return json.loads((checkpoint / JSON_FILE).read_text()).get("run") == run


def _history(places: Sequence[Path], missing: list[str]) -> list[dict[str, Any]]:
    for place in places:
        if (place / TRAINER_STATE_NAME).is_file():
            return json.loads((place / TRAINER_STATE_NAME).read_text())["log_history"]
    missing.append(f"There is no {TRAINER_STATE_NAME}: no losses and accuracies of training.")
    return []


def _class_names(places: Sequence[Path], missing: list[str]) -> list[str]:
    for place in places:
        if (place / "config.json").is_file():
            names = AutoConfig.from_pretrained(place).id2label
            return [str(names[label]) for label in sorted(names)]
    missing.append("There is no config.json of a transformers model: classes go by their numbers.")
    return []
