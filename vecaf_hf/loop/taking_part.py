"""A run's callbacks among those of its user."""

from __future__ import annotations

from typing import Any

from transformers.trainer_callback import CallbackHandler

from vecaf_hf.loop.class_shares import HeadCorrection
from vecaf_hf.loop.controller import LoopController
from vecaf_hf.loop.epochs import PoolEpochs
from vecaf_hf.loop.first import First
from vecaf_hf.scoring.head import find_head


def take_part(handler: CallbackHandler, loop: LoopController, resumes: bool) -> None:
    """Have a run's callbacks told of Trainer's events, in place of those of a run before it.

    Args:
        handler: Trainer's.
        loop: The run.
        resumes: Whether it goes on from a checkpoint, whose head no end of a run has corrected.
    """
    for kind in (LoopController, PoolEpochs):
        handler.remove_callback(kind)
    # An optimizer with modes gives its last weights first of all: it would take a correction for a step.
    place = sum(isinstance(one, First) for one in handler.callbacks)
    if loop.args.num_loops is not None:
        handler.callbacks.insert(place, PoolEpochs(loop.schedule))
    correction: Any = handler.pop_callback(HeadCorrection)
    if correction is not None and not resumes:
        correction.undo()
    if loop.args.correct_class_shares:
        model = loop.selector.scorer.model
        head: Any = find_head(model, loop.args.head)
        handler.callbacks.insert(place, HeadCorrection(model, head, loop.class_shares))
    # Last: a save that any callback asks for at a loop's end is put off.
    handler.add_callback(loop)
