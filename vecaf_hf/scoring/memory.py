"""Batches that may not fit in the accelerator's memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from vecaf_hf.data.indexed import POOL_INDEX

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def is_out_of_memory(error: Exception) -> bool:
    """Whether less work at once might succeed: memory ran out, on whichever device and through whichever library."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


class FittingBatches:
    """Work on batches without a backward pass: one that does not fit is done in halves, these in halves again.

    Batches after it are cut at once to the size that fitted; a warning is logged once. No process waits for another, so
    each may find a size of its own. No checkpoint has it: after a batch that did not fit, a resumed run may cut others
    than the uninterrupted one would, and scores may differ in their last bits.

    Attributes:
        most: Samples that fit; None as long as every batch has.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def run(self, work: Callable[[dict[str, Any]], Result], batch: Mapping[str, Any]) -> list[Result]:
        """The results of the batch's parts, in its order.

        Args:
            work: Done with each part; done again with a half of it when `is_out_of_memory` says so of its error.
            batch: With POOL_INDEX, LongTensor [n]; tensors and lists of n rows are cut, all else goes into each part.

        Raises:
            RuntimeError: A single sample does not fit, or the error is another one.
        """
        count, done = len(batch[POOL_INDEX]), 0
        results: list[Result] = []
        while done < count:
            rows = slice(done, min(count, done + (self.most or count)))
            size = rows.stop - rows.start
            try:
                results.append(work({name: _cut(value, rows, count) for name, value in batch.items()}))
                done = rows.stop
                continue
            except RuntimeError as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            # Not inside `except`: the traceback holds what took the memory.
            clear_device_cache(garbage_collection=True)
            self._halve(size)
        return results

    def _halve(self, size: int) -> None:
        if self.most is None:
            logger.warning(
                "a scoring batch of %d samples does not fit in memory: it is scored in halves from now on. A lower "
                "scoring_batch_size spares the attempts",
                size,
            )
        self.most = -(-size // 2)


def _cut(value: Any, rows: slice, count: int) -> Any:
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and len(value) == count else value
    return value[rows] if isinstance(value, (list, tuple)) and len(value) == count else value
