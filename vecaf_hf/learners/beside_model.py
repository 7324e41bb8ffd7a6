"""Parameters that the model's optimizer trains and that are not in the model."""

from __future__ import annotations

from typing import ClassVar

from accelerate import Accelerator
from accelerate.utils import reduce
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class LearnsBesideModel(TrainerCallback):
    """What Accelerate, DistributedDataParallel and Trainer do to the model's gradients is done here to others.

    Attributes:
        decays: Whether the run's weight decay acts on the parameters.
    """

    decays: ClassVar[bool] = True

    def learned_parameters(self) -> list[nn.Parameter]:
        """What the model's optimizer trains besides the model."""
        raise NotImplementedError

    def after_backward(self, accelerator: Accelerator) -> None:
        """Before a gradient scaler looks at the gradients: it must find the same in all processes, each calls it."""
        if accelerator.sync_gradients and accelerator.num_processes > 1:
            for parameter in self.learned_parameters():
                if parameter.grad is not None:
                    parameter.grad = reduce(parameter.grad, reduction="mean")

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if args.max_grad_norm and self.learned_parameters():
            nn.utils.clip_grad_norm_(self.learned_parameters(), args.max_grad_norm)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        for parameter in self.learned_parameters():
            parameter.grad = None
