"""Where the samples of a step's batches lie in the pool: told beside the batches, so no user's code meets our key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from vecaf_hf.data.indexed import POOL_INDEX
from vecaf_hf.loop.own_methods import NOT_REACHED, OTHER_LOADER


class Underway:
    """The micro-batches of one optimizer step, from the loader to the end of the step.

    Args:
        check: Raises an error if a batch cannot be trained on.
    """

    def __init__(self, check: Callable[[Any], None]) -> None:
        self.check = check
        self.forget()

    def forget(self) -> None:
        """No batch is underway."""
        self._batches: list[tuple[Any, Tensor | None]] = []
        self._ended, self._is_reached = 0, False

    def without_keys(self, batches: Iterable[Any]) -> Iterator[Any]:
        """These batches, checked, without their positions, which are kept here."""
        for batch in batches:
            self.check(batch)
            self._batches.append((batch, batch.pop(POOL_INDEX, None)))
            yield batch

    def positions(self, inputs: Any) -> Tensor:
        """In the pool, of the samples of these inputs. LongTensor [n]. More than one pass of a step may ask.

        Raises:
            ValueError: They are not known, or cannot be trained on.
        """
        self._is_reached = True
        self.check(inputs)
        if POOL_INDEX in inputs:
            return inputs.pop(POOL_INDEX)
        # The user's code may have left batches out, or made a copy of the one that is trained on.
        known = [positions for batch, positions in self._batches if batch is inputs]
        found = next(iter(known + [positions for _, positions in self._batches[self._ended :]]), None)
        if found is None:
            raise ValueError(OTHER_LOADER)
        return found

    def end_batch(self) -> None:
        """A micro-batch is trained on, and the step goes on."""
        self._ended += 1

    def end_step(self) -> None:
        """The step's last micro-batch is trained on.

        Raises:
            ValueError: None of the step has come to our `training_step`.
        """
        is_missed = bool(self._batches) and not self._is_reached
        self.forget()
        if is_missed:
            raise ValueError(NOT_REACHED)
