"""What training minimises, by all that the user gave: for a batch, or for a sample and its weight."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.data.labels import is_soft
from vecaf_hf.scoring.classes import problem_type_kept
from vecaf_hf.scoring.divisor import TOLD, heeds_divisor
from vecaf_hf.scoring.losses import SampleLoss
from vecaf_hf.scoring.objective import Objective, SampleWeight, find_objective
from vecaf_hf.scoring.training_losses import Batch

logger = logging.getLogger(__name__)

LossBy = Callable[[Tensor], Tensor]
# Batches that are looked at, at most: the loss of one may be zero. What is not told then is left to Trainer.
TRIES = 3


class TrainingLoss:
    """The loss of a training batch.

    Args:
        of_sample: The user's `sample_loss_func`, or None.
        weight_of_sample: The user's `sample_weight_func`, or None.
        is_overridden: Whether `compute_loss` is the user's own, by now.

    Attributes:
        of_batch: The user's `compute_loss_func`, as it was given or set later, or None.
        weighs: Whether the samples of the loop have weights.
        is_looked_at: Whether it is being found out what a batch's loss is divided by.
    """

    def __init__(
        self,
        of_sample: SampleLoss | None,
        weight_of_sample: SampleWeight | None,
        is_overridden: Callable[[], bool],
    ) -> None:
        self.of_sample, self.weight_of_sample, self.is_overridden = of_sample, weight_of_sample, is_overridden
        self.of_batch: Any = None
        self.weighs = False
        self._objective: tuple[Any, Objective] | None = None
        # Whether the loss of a batch heeds the number of samples (divisor.py), and of what that was found out.
        self._heeds: bool | None = None
        self._heeds_of: Any = None
        self.is_looked_at = self._told_of_soft = False
        self._tries = 0

    @property
    def is_by_sample(self) -> bool:
        """Whether the user gave a loss, or a weight, for each sample."""
        return self.of_sample is not None or self.weight_of_sample is not None

    @property
    def is_own(self) -> bool:
        """Whether the user gave the loss: then labels may be anything."""
        return self.of_batch is not None or self.of_sample is not None or self.is_overridden()

    @property
    def is_made_of_samples(self) -> bool:
        """Whether the loss of a batch is made of its samples', by us."""
        return self.weighs or self.is_by_sample

    def is_mean(self, args: VeCAFArguments) -> bool:
        """Whether the loss of a batch is known to be its mean, and is treated so."""
        return self._heeds is False and not self.is_made_of_samples and not args.trainer_loss_scale

    def objective(self, model: Any, label_smoothing: float) -> Objective:
        """The loss of each sample, by all that is given now."""
        # Not of the problem_type, which a model of transformers settles by the first labels that it sees.
        made_of = (self.of_batch, label_smoothing, self.of_sample, self.weight_of_sample, ref(model))
        if self._objective is None or self._objective[0] != made_of:
            problem = getattr(getattr(model, "config", None), "problem_type", None)
            made = find_objective(self.of_sample, self.of_batch, problem, label_smoothing, self.weight_of_sample)
            # What the user computes is compared with nothing: it may be anything.
            made.is_accepted = self.is_overridden()
            self._objective = made_of, made
        return self._objective[1]

    def weighted(
        self, objective: Objective, batch: Batch | None, args: VeCAFArguments
    ) -> Callable[[Any, Tensor, Any], Tensor]:
        """The loss of a batch that is made of its samples', (outputs, labels, Trainer's count) -> []; those of the
        batch that passes the model, if one does, are recorded."""

        def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
            losses = objective.sample_losses(outputs, labels)
            if batch is not None:
                batch.seen(losses)
            weights = torch.ones_like(losses) if batch is None or batch.weights is None else batch.weights
            # Where Trainer would do without a count, so does a mean by weights.
            without = self._heeds is False and args.trainer_loss_scale and not self.is_by_sample
            return objective.mean(losses, weights, labels, None if without else num_items_in_batch)

        return loss

    def find_out_scale(
        self, model: nn.Module, loss_by: LossBy, count: Tensor, accelerator: Accelerator, args: VeCAFArguments
    ) -> None:
        """Find out, once and where it matters, whether the loss of a batch heeds the number of samples.

        Args:
            model: Whose loss it is.
            loss_by: The loss of one batch, for a number to divide by.
            count: That number.
            accelerator: Its processes agree; each must call this.
            args: Accumulation and processes.
        """
        made_of = (self.of_batch, ref(model))
        factor = args.gradient_accumulation_steps * (args.world_size if args.average_tokens_across_devices else 1)
        if factor == 1 or self.is_by_sample or self._heeds_of == made_of:
            return
        # What lies under the weights is looked at: they may be gone with the next loop.
        weighs, self.weighs, self.is_looked_at = self.weighs, False, True
        try:
            with problem_type_kept(model):
                self._heeds = heeds_divisor(model, loss_by, count, accelerator)
        finally:
            self.weighs, self.is_looked_at = weighs, False
        self._tries = self._tries + 1 if self._heeds is None else 0
        if self._tries in (0, TRIES):
            self._heeds_of, self._tries = made_of, 0
        if self.is_mean(args):
            logger.warning(TOLD, factor)

    def tell_of_soft(self, model: Any, labels: Any) -> None:
        """Warn, once, where transformers would settle on binary cross entropies for parts of single classes."""
        unset = getattr(getattr(model, "config", None), "problem_type", "") is None
        if self._told_of_soft or not unset or self.is_own or not isinstance(labels, Tensor):
            return
        self._told_of_soft = True
        if is_soft(labels):
            logger.warning(
                "labels are parts of classes (mixed samples, or soft labels), and the model, whose problem_type is not "
                "set, trains a binary cross entropy for each class. For a cross entropy over classes pass "
                'sample_loss_func=lambda outputs, labels: cross_entropy(outputs.logits, labels, reduction="none"); '
                'if each class is a question of its own, set config.problem_type="multi_label_classification"'
            )
