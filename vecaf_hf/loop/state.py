"""What a checkpoint keeps of the loops, so that a resumed run goes on as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vecaf_hf.loop.record import LoopRecord
from vecaf_hf.loop.sampler import Stream
from vecaf_hf.loop.schedule import LoopSchedule
from vecaf_hf.selection import Selection

VERSION = 1
JSON_FILE = "vecaf_state.json"
TENSORS_FILE = "vecaf_state.safetensors"


@dataclass
class RunState:
    """Everything selected so far; one entry of each list per loop.

    Args:
        schedule: The run's sizes.
        pool: Fingerprint of the pool's labels and length.
        streams: Training order of each loop.
        selections: Selection of each loop.
        records: Figures of each loop.
        cost: `CostMeter.state()`.
        augmentation: Tensors of the augmentation in the current loop.
    """

    schedule: LoopSchedule
    pool: str
    streams: list[Stream] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    records: list[LoopRecord] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Tensor] = field(default_factory=dict)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write both files, each to a temporary name first: a file that is there is whole."""
        values = {
            "version": VERSION,
            "schedule": asdict(self.schedule),
            "pool": self.pool,
            "loops": [
                {
                    "start": stream.start,
                    "offset": stream.offset,
                    "info": selection.info,
                    "record": record.to_json(),
                }
                for stream, selection, record in zip(self.streams, self.selections, self.records, strict=True)
            ],
            "cost": self.cost,
        }
        tensors = {f"augmentation.{name}": tensor for name, tensor in self.augmentation.items()}
        for loop, (stream, selection) in enumerate(zip(self.streams, self.selections, strict=True)):
            if stream.start == loop:
                tensors[f"indices.{loop}"] = stream.indices.int()
            if selection.weights is not None:
                # In the stream's order: a selection of the same set may list it in another one.
                rows = selection.indices.argsort()[stream.indices.argsort().argsort()]
                tensors[f"weights.{loop}"] = selection.weights[rows]
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, folder / f"{TENSORS_FILE}.tmp")
        (folder / f"{JSON_FILE}.tmp").write_text(json.dumps(values))
        for name in (TENSORS_FILE, JSON_FILE):
            os.replace(folder / f"{name}.tmp", folder / name)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], schedule: LoopSchedule, pool: str) -> RunState:
        """The state in a checkpoint, for a run with this schedule and pool.

        Raises:
            ValueError: The checkpoint was not written by VeCAFTrainer, or by a run with other sizes, another
                pool or another version of the format.
        """
        folder = Path(folder)
        if not (folder / JSON_FILE).is_file() or not (folder / TENSORS_FILE).is_file():
            raise ValueError(
                f"cannot resume from {folder}: it has no {JSON_FILE} and {TENSORS_FILE}, so it was not written by "
                "VeCAFTrainer or not to its end; use an earlier checkpoint"
            )
        values = json.loads((folder / JSON_FILE).read_text())
        if values["version"] != VERSION:
            raise ValueError(
                f"cannot resume: the checkpoint's format is {values['version']}, this version reads {VERSION}"
            )
        schedule.check_same(values["schedule"])
        if values["pool"] != pool:
            raise ValueError(
                f"cannot resume: the training pool has other labels than when the checkpoint was written "
                f"(fingerprint {values['pool']} then, {pool} now)"
            )
        return cls._from_parts(values, load_file(folder / TENSORS_FILE), schedule, pool)

    @classmethod
    def _from_parts(
        cls, values: Mapping[str, Any], tensors: dict[str, Tensor], schedule: LoopSchedule, pool: str
    ) -> RunState:
        state = cls(schedule, pool, cost=values["cost"])
        for loop, entry in enumerate(values["loops"]):
            indices = tensors[f"indices.{entry['start']}"].long()
            state.streams.append(Stream(indices, entry["start"], entry["offset"]))
            state.selections.append(Selection(indices, tensors.get(f"weights.{loop}"), entry["info"]))
            state.records.append(LoopRecord.from_json(entry["record"]))
        prefix = "augmentation."
        state.augmentation = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
        return state


def pool_fingerprint(size: int, labels: Tensor | None) -> str:
    """A short hash of the pool's length and labels, the same on every machine."""
    content = hashlib.sha256(str(size).encode())
    if labels is not None:
        content.update(labels.to(torch.int64).numpy().tobytes())
    return content.hexdigest()[:16]
