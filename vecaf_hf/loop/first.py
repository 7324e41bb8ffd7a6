"""What is done before any other callback: public events in place of Trainer's private methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler


class First(TrainerCallback):
    """Calls `begun` and `ended` when a training has begun and ended. To be the first of the callbacks."""

    def __init__(self, begun: Callable[[], None], ended: Callable[[], None]) -> None:
        self.begun, self.ended = begun, ended

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begun()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.ended()


@contextmanager
def first_of(handler: CallbackHandler, begun: Callable[[], None], ended: Callable[[], None]) -> Iterator[None]:
    """Inside the block the handler has such a callback."""
    handler.callbacks = [First(begun, ended), *handler.callbacks]
    try:
        yield
    finally:
        handler.callbacks = [one for one in handler.callbacks if type(one) is not First]
