"""Whether all processes are about to train on the same samples."""

from __future__ import annotations

import hashlib

from accelerate import Accelerator
from accelerate.utils import gather_object

from vecaf_hf.selection import Selection


def check_same_selection(accelerator: Accelerator, selection: Selection, loop: int) -> None:
    """Raise a RuntimeError, in every process, if one of them is about to train on something else than the others."""
    if accelerator.num_processes == 1:
        return
    digests = gather_object([fingerprint(selection)])
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise RuntimeError(
            f"loop {loop}: rank {', '.join(map(str, others))} has another selection than rank 0 ({', '.join(digests)} "
            "by rank): all processes need the same code, data and checkpoint"
        )


def fingerprint(selection: Selection) -> str:
    """A short hash of the indices, in their order, and of the weights."""
    content = hashlib.sha256(selection.indices.numpy().tobytes())
    if selection.weights is not None:
        content.update(selection.weights.numpy().tobytes())
    return content.hexdigest()[:16]
