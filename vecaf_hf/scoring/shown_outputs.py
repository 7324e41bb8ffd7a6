"""What the model returned in a training step, where only the user's `compute_loss` is given it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from vecaf_hf.scoring.head import Hook
from vecaf_hf.scoring.losses import logits_of


class ShownOutputs:
    """A hook on the model, for a whole run: one that is set after a compiled model's first call does not fire."""

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._watching = False
        self._first: tuple[Any, Any] | None = None

    def attach(self, model: nn.Module) -> None:
        self._handle = model.register_forward_hook(Hook(self._see), with_kwargs=True)

    def detach(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block the model's first forward pass is kept."""
        self._watching = True
        try:
            yield
        finally:
            self._watching, self._first = False, None

    def outputs(self, label_name: str, count: int) -> Any:
        """The first pass's, logits and what follows them, of as many samples.

        Raises:
            ValueError: There was none, or it was of other samples.
        """
        outputs: Any
        outputs, given = (None, {}) if self._first is None else self._first
        with_loss = isinstance(outputs, tuple) and given.get(label_name) is not None
        rows = None if outputs is None else len(logits_of(outputs, with_loss))
        if rows != count:
            raise ValueError(
                f"the strategy goes by the losses that training sees, and compute_loss passes {rows} samples of a "
                f"batch of {count} through the model's forward: call the model on the batch, or super().compute_loss"
            )
        return outputs[1:] if with_loss else outputs

    @torch.compiler.disable
    def _see(self, model: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        if self._watching and self._first is None:
            self._first = outputs, kwargs
