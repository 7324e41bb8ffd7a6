"""What a user's own trainer does in place of ours, and what a run cannot do then."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

# Methods of Trainer that decide what a loader samples.
SAMPLING = ("_get_train_sampler", "_get_train_dataloader", "_get_dataloader")
OTHER_LOADER = (
    "the trainer's own get_train_dataloader returned a loader of its own, and here the selection decides which samples "
    "are trained on: return that of super().get_train_dataloader(), or leave the method out"
)
NOT_REACHED = (
    "the trainer's own training_step does not call super().training_step, where samples are weighted, their losses "
    "recorded and their embeddings moved: call it for every batch, or do in compute_loss what it does"
)
OTHER_LOSS = (
    "the trainer's own compute_loss does not call super().compute_loss, and strategy {!r} weighs samples, or learns, "
    "there: call it, pass the objective as sample_loss_func, or choose another strategy"
)


def tell_of_samplers(kind: type, base: type) -> None:
    """Warn of methods that decide what is sampled, in a class of trainers: they are not called."""
    own = [name for name in SAMPLING if getattr(kind, name, None) is not getattr(base, name, None)]
    if own:
        logger.warning(
            "%s.%s is not called for the training: the selection decides which samples are trained on, and each "
            "pass over them is shuffled. To weigh samples, choose a strategy, or write one",
            kind.__name__,
            " and ".join(own),
        )


def tell_of_loss(kind: type, strategy: Any, of_batch: Any) -> None:
    """Warn of a `compute_loss` in a class of trainers: the strategy goes by what it takes a sample's loss to be."""
    logger.warning(
        "%s has a compute_loss of its own, and strategy %r goes by each sample's loss, which is taken to be %s: pass "
        "sample_loss_func, and sample_weight_func, to say what it is",
        kind.__name__,
        strategy,
        "compute_loss_func's" if of_batch else "that of the model's problem_type",
    )
