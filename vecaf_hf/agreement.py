"""What all processes must hold in common, and what they do together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather, gather_object, reduce
from torch import Tensor

T = TypeVar("T")
# Rows that processes tell each other at once: bounds the memory of a broadcast on the accelerator.
BROADCAST_ROWS = 2**16
# What processes that work together tell each other before they do it.
ACTIONS = ("fail", "end", "gather", "sum", "exchange", "deal")


def decided_by_main(accelerator: Accelerator | PartialState, decide: Callable[[], T]) -> T:
    """What `decide` returns in the main process, in every process.

    Raises:
        Exception: In the main process what `decide` raised, in the others a RuntimeError that points there: a failure
            ends all of them at once, none waits for the others.
    """
    if accelerator.num_processes == 1:
        return decide()
    outcome: list[tuple[T] | None] = [None]
    failure = None
    if accelerator.is_main_process:
        try:
            outcome = [(decide(),)]
        except Exception as error:
            failure = error
    (decided,) = broadcast_object_list(outcome)
    if decided is None:
        raise failure or RuntimeError("the main process failed while the others waited; its message says why")
    return decided[0]


def tensors_of_main(
    accelerator: Accelerator, decide: Callable[[], dict[str, Tensor] | None]
) -> dict[str, Tensor] | None:
    """As `decided_by_main`, for tensors of many rows, on the CPU."""
    found: dict[str, Tensor] | None = None

    def decide_forms() -> dict[str, tuple[torch.Size, torch.dtype]] | None:
        nonlocal found
        found = decide()
        return None if found is None else {name: (values.shape, values.dtype) for name, values in found.items()}

    forms = decided_by_main(accelerator, decide_forms)
    if accelerator.num_processes == 1 or forms is None:
        return found
    found = found or {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in forms.items()}
    for values in found.values():
        for block in values.split(BROADCAST_ROWS):
            block.copy_(broadcast(block.to(accelerator.device)))
    return found


def done_together(accelerator: Accelerator, work: Callable[[Together], T]) -> T:
    """What `work` returns, in every process; each does its share.

    Raises:
        Exception: What `work` raised in this process; a RuntimeError where it failed in another one, for none waits for
            it. A process hears of that when it exchanges something next.
    """
    together = Together(accelerator)
    try:
        done = work(together)
    except BaseException:
        together.leave(failed=True)
        raise
    together.leave(failed=False)
    return done


class Together:
    """All processes, as one of them sees it: each calls the same methods in the same order.

    Before anything is exchanged, each says what it is about to do. So a process that fails, or does something else,
    ends all of them: none waits for it.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.world, self.rank = accelerator.num_processes, accelerator.process_index
        self._device = accelerator.device
        self._is_over = False

    def gather(self, values: Tensor) -> Tensor:
        """The rows of all, in the order of their ranks; any may have none. [n, ...] -> [N, ...]."""
        sizes = self._agree("gather", values[:1].numel(), len(values))
        if self.world == 1 or max(sizes) == 0:
            return values
        padded = values.new_zeros((max(sizes), *values.shape[1:]))
        padded[: len(values)] = values
        found = gather(padded.to(self._device)).to(values.device).split(max(sizes))
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all, of values of the same shape."""
        self._agree("sum", values.numel())
        return values if self.world == 1 else reduce(values.to(self._device), "sum").to(values.device)

    def exchange(self, value: T) -> list[T]:
        """The small values of all, by rank."""
        self._agree("exchange")
        return [value] if self.world == 1 else gather_object([value])

    def deal(self, parts: list[Tensor]) -> list[Tensor]:
        """Hand each process the part at its rank; what each one has for this process, by rank."""
        self._agree("deal", parts[0][:1].numel())
        if self.world == 1:
            return parts
        sizes = torch.tensor([len(part) for part in parts], device=self._device)
        every = gather(sizes).unflatten(0, (self.world, self.world))[:, self.rank].tolist()
        handed = torch.cat(parts).to(self._device)
        found = handed.new_empty((sum(every), *handed.shape[1:]))
        torch.distributed.all_to_all_single(found, handed, every, sizes.tolist())
        return list(found.to(parts[0].device).split(every))

    def leave(self, failed: bool) -> None:
        """The work is done, or has failed in this process."""
        if not self._is_over:
            self._agree("fail" if failed else "end")

    def _agree(self, action: str, width: int = 0, rows: int = 0) -> list[int]:
        """The rows of each process, all of which are about to do the same; without any, a process knows no width."""
        if self.world == 1:
            return [rows]
        told = torch.tensor([[ACTIONS.index(action), width, rows]], device=self._device)
        self._is_over = True
        actions, widths, sizes = gather(told).T.tolist()
        self._is_over = action in ("end", "fail")
        if action != "fail" and (set(actions) != {actions[0]} or len({*widths} - {0}) > 1):
            self._is_over = True
            failed = [rank for rank, one in enumerate(actions) if ACTIONS[one] == "fail"]
            raise RuntimeError(
                f"process {failed[0]} failed while the others worked with it; its message says why"
                if failed
                else "processes that work together do different things: are their libraries and devices the same?"
            )
        return sizes
