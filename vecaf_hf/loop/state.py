"""What a checkpoint keeps of the loops, so that a resumed run goes on as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vecaf_hf.data.sharded import ShardedDataset
from vecaf_hf.data.streams import without_folders
from vecaf_hf.loop.packing import packed_indices, packed_weights, unpacked_indices, unpacked_weights
from vecaf_hf.loop.record import LoopRecord
from vecaf_hf.loop.sampler import Stream
from vecaf_hf.selection import Selection
from vecaf_hf.selection.candidates import evenly_spaced

VERSION = 9
JSON_FILE = "vecaf_state.json"
TENSORS_FILE = "vecaf_state.safetensors"
# Rows of a dataset that tell it from others.
FINGERPRINTED_ROWS = 16
# Dictionaries of tensors in a state.
PARTS = ("selector", "learner", "augmentation", "start")


@dataclass
class RunState:
    """Everything selected so far; one entry of each list per loop.

    Args:
        identity: What fixes the run: sizes, options, pool. A resumed run must have the same.
        run: The run's id.
        step: Optimizer steps done when a checkpoint was written.
        stopped: Whether these were the run's last.
        streams: Training order of each loop.
        selections: Selection of each loop.
        records: Figures of each loop.
        skipped: Samples that cannot be loaded with the reason, by place (`SampleLedger.failed`).
        cost: `CostMeter.state_dict()`.
        losses: Per process, the sum of the training losses that no log has shown yet.
        logged_step: Step of the last log.
        untold: Figures that no log has shown yet.
        ended: Loops that have ended, of which a callback may have cut some short.
        selector: `Selector.state_dict()`.
        learner: `Teaching.state_dict()`.
        augmentation: `CEACallback.state_dict()`.
        start: `starting_weights`, until Just Train Twice has begun again from them.
    """

    identity: dict[str, Any]
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    step: int = 0
    stopped: bool = False
    streams: list[Stream] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    records: list[LoopRecord] = field(default_factory=list)
    skipped: dict[str, dict[int, str]] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    logged_step: int = 0
    untold: dict[str, float] = field(default_factory=dict)
    ended: int = 0
    selector: dict[str, Tensor] = field(default_factory=dict)
    learner: dict[str, Tensor] = field(default_factory=dict)
    augmentation: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)

    def next_stream(self, selection: Selection, used: int) -> Stream:
        """The training order of the next loop, whose selection this is.

        Args:
            selection: Of the loop after those in the state.
            used: Samples that a loop trains on.
        """
        loop = len(self.streams)
        return self.streams[-1].after(used, selection.indices, loop) if loop else Stream(selection.indices, loop)

    def append(self, selection: Selection, record: LoopRecord, used: int) -> None:
        """A loop begins, of which `used` samples train."""
        self.streams.append(self.next_stream(selection, used))
        self.selections.append(selection)
        self.records.append(record)

    def without_tensors(self) -> RunState:
        """All but what only a run that goes on needs."""
        empty: dict[str, Any] = {part: {} for part in PARTS}
        return replace(self, **empty)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write both files into a checkpoint's folder."""
        values = {
            "version": VERSION,
            "identity": self.identity,
            "run": self.run,
            "step": self.step,
            "stopped": self.stopped,
            "ended": self.ended,
            "loops": [
                {
                    "start": stream.start,
                    "offset": stream.offset,
                    "info": selection.info,
                    "record": record.to_json(),
                }
                for stream, selection, record in zip(self.streams, self.selections, self.records, strict=True)
            ],
            "skipped": self.skipped,
            "cost": self.cost,
            "losses": self.losses,
            "logged_step": self.logged_step,
            "untold": self.untold,
        }
        tensors = {f"{part}.{name}": tensor for part in PARTS for name, tensor in getattr(self, part).items()}
        for loop, (stream, selection) in enumerate(zip(self.streams, self.selections, strict=True)):
            if stream.start == loop:
                tensors[f"indices.{loop}"] = packed_indices(stream.indices)
            if not torch.equal(selection.indices, stream.indices):
                # The same samples in another order: the stream goes on in its own.
                tensors[f"selected.{loop}"] = packed_indices(selection.indices)
            if selection.weights is not None:
                tensors[f"weights.{loop}"], places = packed_weights(selection.weights)
                if places is not None:
                    tensors[f"places.{loop}"] = places
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / TENSORS_FILE)
        (folder / JSON_FILE).write_text(json.dumps(values))

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], identity: Mapping[str, Any], may_differ: Collection[str] = ()
    ) -> RunState:
        """The state in a checkpoint, for a run with this identity; what of it `may_differ` is the new run's from now
        on.

        Raises:
            ValueError: The checkpoint was written by another run (the message has each thing that differs, then and
                now) or another version of the format.
        """
        values = json.loads((Path(folder) / JSON_FILE).read_text())
        if values["version"] != VERSION:
            raise ValueError(
                f"cannot resume: the checkpoint's format is {values['version']}, this version reads {VERSION}"
            )
        saved = values["identity"]
        if {**saved, **{name: identity[name] for name in may_differ}} != identity:
            check_same(saved, identity)
        if "total_updates" in may_differ and values["step"] >= saved["total_updates"]:
            # It ended with its last step, and there may be more of them now.
            values["stopped"] = values["step"] >= identity["total_updates"]
        values["identity"] = dict(identity)
        tensors = load_file(Path(folder) / TENSORS_FILE)
        state = cls(
            **{name: values[name] for name in ("identity", "run", "step", "stopped", "cost", "losses", "logged_step")}
        )
        state.untold, state.ended = values["untold"], values["ended"]
        for place, failed in values["skipped"].items():
            state.skipped[place] = {int(index): reason for index, reason in failed.items()}
        for loop, entry in enumerate(values["loops"]):
            indices = unpacked_indices(tensors[f"indices.{entry['start']}"])
            state.streams.append(Stream(indices, entry["start"], entry["offset"]))
            selected = tensors.get(f"selected.{loop}")
            selected = indices if selected is None else unpacked_indices(selected)
            weights = tensors.get(f"weights.{loop}")
            if weights is not None:
                weights = unpacked_weights(weights, tensors.get(f"places.{loop}"))
            state.selections.append(Selection(selected, weights, entry["info"]))
            state.records.append(LoopRecord.from_json(entry["record"]))
        for part in PARTS:
            prefix = f"{part}."
            setattr(state, part, {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)})
        return state


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a ValueError that names whatever differs between a checkpoint's run and this one, with both values."""
    names = [name for name in {**now, **saved} if saved.get(name) != now.get(name)]
    if names:
        then, today = ({name: values.get(name, "not set") for name in names} for values in (saved, now))
        listed = "; ".join(f"{name} was {then[name]} and is {today[name]} now" for name in names)
        raise ValueError(
            f"cannot resume a run that differs from the one that wrote the checkpoint: {listed}. Start with the same "
            "arguments and data, or start anew"
        )


def pool_fingerprint(dataset: Any, labels: Tensor | None) -> str:
    """A short hash of a pool's labels and, of a `datasets.Dataset`, of a few rows as they are stored; the same on every
    machine."""
    content = hashlib.sha256(str(len(dataset)).encode())
    if labels is not None:
        content.update(labels.to(torch.int64).numpy().tobytes())
    if isinstance(dataset, datasets.Dataset):
        rows = evenly_spaced(len(dataset), FINGERPRINTED_ROWS).tolist()
        for row in dataset.with_format("arrow")[rows].to_pylist():
            content.update(repr(without_folders(row)).encode())
    if isinstance(dataset, ShardedDataset):
        content.update(dataset.shards.fingerprint.encode())
    return content.hexdigest()[:16]
