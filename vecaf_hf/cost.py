"""What a run costs: every forward and backward pass by kind, in samples, FLOPs and seconds."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

logger = logging.getLogger(__name__)

KINDS = {
    "score": "forward passes over the pool for embeddings and losses, and loading samples to check them",
    "select": "optimising the selection, and fitting heads on embeddings",
    "caption": "generating captions of images",
    "encode_text": "forward passes of the text encoder, and of its image tower",
    "auxiliary": "forward and backward passes of networks that a method trains beside or before the model",
    "train": "forward and backward passes of finetuning",
    "evaluate": "forward passes of evaluation",
}
# Kinds whose results outlive a run that is killed.
CACHED = {"caption", "encode_text"}


@dataclass
class Work:
    samples: int = 0
    flops: float = 0.0
    seconds: float = 0.0


# Images as they are trained and evaluated on.
FULL_SIZE = "full"
# FLOPs of a forward and backward pass over those of the forward pass alone: the backward pass multiplies with the
# weights twice, for the gradients of the input and of the weights.
TRAINING_FACTOR = 3


class CostMeter:
    """Counts work by kind, of all processes together; seconds are this process's.

    `state_dict()` and `load_state_dict()` carry the counters through a checkpoint.

    The model's FLOPs per sample are measured once for each size of images, on a forward pass at the evaluation
    transform, and stand for all of its passes at that size; a training pass counts as three.

    Attributes:
        work: Counters by kind.
        forward_flops: FLOPs of a forward pass per sample, by the size of its images (FULL_SIZE, or pixels); 0 where
            none has been measured. Of another network, FLOPs of what it does per sample, by a name.
    """

    def __init__(self) -> None:
        self.work = {kind: Work() for kind in KINDS}
        self.forward_flops: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0
        self._not_counted: set[str] = set()

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
    def forward(
        self, kind: str, samples: int, processes: int = 1, size: str = FULL_SIZE, factor: int = 1
    ) -> Iterator[None]:
        """Count one forward pass of the model over this many samples in each process, as `factor` passes; the first one
        of each size of images is measured. One that fails is not counted."""
        if self.forward_flops[size]:
            yield
        else:
            with self._flops() as counter:
                yield
            self.forward_flops[size] = counter.get_total_flops() / samples
        self.add(kind, samples * processes, factor * samples * processes * self.forward_flops[size])

    @contextmanager
    def measured(self, kind: str) -> Iterator[None]:
        """Book the block's seconds and its FLOPs, operation by operation."""
        with self.timed(kind), self._flops() as counter:
            yield
        self.add(kind, flops=counter.get_total_flops())

    def add(self, kind: str, samples: int = 0, flops: float = 0.0) -> None:
        self.work[kind].samples += samples
        self.work[kind].flops += flops

    def add_work(self, other: CostMeter) -> None:
        """Count another meter's work too."""
        for kind, work in other.work.items():
            self.add(kind, work.samples, work.flops)
            self.work[kind].seconds += work.seconds

    def add_forwards(self, kind: str, samples: int, size: str = FULL_SIZE) -> None:
        """Count forward passes of the model on images of this size."""
        self.add(kind, samples, samples * self.forward_flops[size])

    def add_training(self, samples: int) -> None:
        """Count forward and backward passes of the model."""
        self.add("train", samples, TRAINING_FACTOR * samples * self.forward_flops[FULL_SIZE])

    def forget_work(self) -> None:
        """Set the counters to zero, but keep the FLOPs per sample that were measured."""
        self.work = {kind: Work() for kind in KINDS}

    def logs(self) -> dict[str, float]:
        """Scalars for Trainer's log, under `vecaf/`: TFLOPs so far of each kind that was done, and of these together.
        Nothing that a resumed run would not repeat: no seconds, and no texts and captions, which a cache keeps."""
        repeated = {kind: work for kind, work in self.work.items() if kind not in CACHED}
        done = {kind: work.flops / 1e12 for kind, work in repeated.items() if work.samples or work.flops}
        figures = {f"vecaf/tflops_{kind}": flops for kind, flops in done.items()}
        return {**figures, "vecaf/tflops": sum(done.values())}

    def state_dict(self) -> dict[str, Any]:
        self._book()
        work = {kind: asdict(work) for kind, work in self.work.items()}
        return {"work": work, "forward_flops": dict(self.forward_flops)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.work = {kind: Work(**state["work"].get(kind, {})) for kind in KINDS}
        self.forward_flops = defaultdict(float, state["forward_flops"])

    @contextmanager
    def _flops(self) -> Iterator[_Counter]:
        """Inside the block FLOPs are counted; operations that cannot be are told, each once."""
        fast = torch.backends.mha.get_fastpath_enabled()
        # One fused operation hides a whole nn.TransformerEncoderLayer in inference (torch 2.14.1).
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            # Attention in plain products of matrices: torch counts none for the fused kernel of the CPU.
            with sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
                yield counter
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        if new := counter.not_counted - self._not_counted:
            self._not_counted |= new
            logger.warning("FLOPs of these operations are not known, and count as none: %s", ", ".join(sorted(new)))


# --- FLOPs: products of matrices, convolutions, attention; what goes element by element counts as none ---


def _by_vector(matrix: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * prod(matrix)


def _recurrent(inputs: Sequence[int], *weights: Any, **kwargs: Any) -> int:
    """Each row of the inputs [..., d] meets all matrices among the weights."""
    # cuDNN's operation has a list of them.
    shapes = weights[0] if weights[0] and not isinstance(weights[0][0], int) else weights[:2]
    return 2 * prod(inputs[:-1]) * sum(prod(shape) for shape in shapes if len(shape) == 2)


ATEN = torch.ops.aten
# Products for which torch 2.14.1 has no formula.
FORMULAS = {
    ATEN.mv: _by_vector,
    ATEN.dot: _by_vector,
    ATEN.addmv: lambda added, matrix, *args, **kwargs: _by_vector(matrix),
    ATEN.mkldnn_rnn_layer: _recurrent,
    ATEN._cudnn_rnn: _recurrent,
}
# Operations of torch itself with more work than one step for each element, and no formula.
UNKNOWN = ("_fft", "_cdist", "_trilinear", "_int_mm", "_grouped_mm", "_weight_int", "linalg_", "miopen_")
OPERATIONS = {"aten", "prim", "prims", "profiler", "c10d", "_c10d_functional"}


class _Counter(FlopCounterMode):
    """FLOPs in total.

    Attributes:
        not_counted: Operations that took place, and of which nobody knows the FLOPs.
    """

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=FORMULAS)
        # Not by module: tracking these fails in inference mode where one is called with a Parameter or is
        # parametrized (torch 2.14.1, torch/utils/module_tracker.py).
        self.mod_tracker: Any = _NoModules()
        self.not_counted: set[str] = set()

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        space, _, name = getattr(func_packet, "_qualified_op_name", "aten::").partition("::")
        if func_packet not in self.flop_registry and (space not in OPERATIONS or name.startswith(UNKNOWN)):
            self.not_counted.add(f"{space}::{name}")
        return super()._count_flops(func_packet, out, args, kwargs)


class _NoModules(nullcontext[None]):
    parents = ("Global",)
