"""What a run costs: every forward and backward pass by kind, in samples, FLOPs and seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

KINDS = {
    "score": "forward passes over the pool for embeddings and losses",
    "select": "optimising the selection",
    "encode_text": "forward passes of the text encoder",
    "train": "forward and backward passes of finetuning",
    "evaluate": "forward passes of evaluation",
}


@dataclass
class Work:
    samples: int = 0
    flops: float = 0.0
    seconds: float = 0.0


class CostMeter:
    """Counts work by kind. `state()` and `load_state()` carry the counters through a checkpoint."""

    def __init__(self) -> None:
        self.work = {kind: Work() for kind in KINDS}
        self.flops_per_sample: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Book the seconds of the block on `kind`; a block inside it books on its own kind alone."""
        self.start(kind)
        try:
            yield
        finally:
            self.stop()

    def start(self, kind: str) -> None:
        self._book()
        self._running.append(kind)

    def stop(self) -> None:
        self._book()
        self._running.pop()

    def _book(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.work[self._running[-1]].seconds += now - self._since
        self._since = now

    @contextmanager
    def counted(self, kind: str, samples: int) -> Iterator[None]:
        """Count one batch of `kind`. Its first batch is measured operation by operation (slower), and its FLOPs
        per sample stand for all later ones: batches of a kind have one shape per sample."""
        if kind in self.flops_per_sample:
            yield
        else:
            with FlopCounterMode(display=False) as counter:
                yield
            self.flops_per_sample[kind] = counter.get_total_flops() / samples
        self.add(kind, samples, samples * self.flops_per_sample[kind])

    def add(self, kind: str, samples: int = 0, flops: float = 0.0) -> None:
        self.work[kind].samples += samples
        self.work[kind].flops += flops

    def forget_work(self) -> None:
        """Set the counters to zero, but keep the FLOPs per sample that were measured."""
        self.work = {kind: Work() for kind in KINDS}

    def state(self) -> dict[str, Any]:
        self._book()
        return {
            "work": {kind: asdict(work) for kind, work in self.work.items()},
            "flops_per_sample": dict(self.flops_per_sample),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.work = {kind: Work(**state["work"].get(kind, {})) for kind in KINDS}
        self.flops_per_sample = dict(state["flops_per_sample"])
        self._running.clear()
