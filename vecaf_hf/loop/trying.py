"""A training step that leaves nothing but the answer whether it fits in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vecaf_hf.data.pool import Pool
from vecaf_hf.scoring.memory import is_out_of_memory
from vecaf_hf.seeding import seeded


def try_batch(
    model: nn.Module,
    pool: Pool,
    batch_size: int,
    batch_loss: Callable[[nn.Module, dict[str, Any]], Tensor],
    accelerator: Accelerator,
) -> None:
    """Two forward and backward passes, the second one beside the gradients of the first; model and generators are
    after it what they were.

    Args:
        model: To be trained, in no wrapper.
        pool: Whose first samples are taken.
        batch_size: How many.
        batch_loss: (model, batch) -> the loss, [].
        accelerator: Its processes do the same.

    Raises:
        RuntimeError: A batch of this size does not fit, in whichever process. Any other error is left to the training,
            which tells more of it.
    """
    error = _error_of(model, pool, batch_size, batch_loss, accelerator)
    short = torch.tensor([error is not None], dtype=torch.long, device=accelerator.device)
    if int(accelerator.reduce(short)):
        # Trainer knows it by these words.
        raise error or RuntimeError("CUDA out of memory.")


def _error_of(
    model: nn.Module, pool: Pool, batch_size: int, batch_loss: Callable[..., Tensor], accelerator: Accelerator
) -> Exception | None:
    with _unchanged(model, accelerator.device):
        try:
            items, collator = pool.items(range(min(batch_size, len(pool))), scored=False)
            batch = collator(items)
            for _ in range(2):
                batch_loss(model, dict(batch)).backward()
        except Exception as error:
            return error.with_traceback(None) if is_out_of_memory(error) else None
    return None


@contextmanager
def _unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    training, buffers = model.training, {name: held.clone() for name, held in model.named_buffers()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []), seeded(0):
        model.train()
        try:
            yield
        finally:
            model.zero_grad(set_to_none=True)
            for name, held in model.named_buffers():
                held.copy_(buffers[name])
            model.train(training)
