"""A training that has come to NaN ends before it is saved: no log shows it, nor does a strategy that scores nothing."""

from __future__ import annotations

import logging
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vecaf_hf.scoring.sharded import are_finite

logger = logging.getLogger(__name__)

WHAT_TO_DO = (
    "Trainer logs such losses as 0.0 or as the mean of those before (logging_nan_inf_filter). Resume from the last "
    "checkpoint, which is from before, with a lower learning_rate, or with weights in float32"
)


def tell_of_half_precision(model: nn.Module) -> None:
    """Warn of parameters that the optimizer would train in half precision."""
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    advice = (
        "load the model with dtype=torch.float32 (transformers 5 takes the checkpoint's), and set bf16=True or "
        "fp16=True for the speed"
    )
    if torch.float16 in kinds:
        logger.warning(
            "parameters are trained in float16, in which AdamW's epsilon of 1e-8 is 0: they are NaN after a step; %s",
            advice,
        )
    elif torch.bfloat16 in kinds:
        logger.warning(
            "parameters are trained in bfloat16, in which a change of less than a 256th is none: small learning rates "
            "do nothing; %s",
            advice,
        )


def check_weights(model: nn.Module, step: int) -> None:
    """Raise a FloatingPointError if a parameter that is trained is not finite."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        return
    finite = are_finite(model, [parameter for _, parameter in trained])
    if not all(finite):
        names = [name for (name, _), fine in zip(trained, finite, strict=True) if not fine]
        raise FloatingPointError(
            f"after {step} steps {len(names)} of {len(trained)} parameters are not finite, the first {names[0]}: the "
            f"training has diverged. {WHAT_TO_DO}"
        )


class LossWatch:
    """Whether any loss of the loop that goes on was finite, in whichever process."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._finite: Any = None

    def see(self, loss: Tensor) -> None:
        """A training batch's, []. Nothing waits for the accelerator."""
        finite = loss.detach().isfinite().reshape(1)
        self._finite = finite if self._finite is None else self._finite | finite

    def end_loop(self, step: int) -> None:
        """Raise a FloatingPointError if none was; called in every process."""
        finite, self._finite = self._finite, None
        if finite is not None and not bool(self.accelerator.gather(finite.int()).any()):
            raise FloatingPointError(
                f"no loss of the loop that ends after {step} steps was finite: the training has diverged, or the data "
                f"holds what the model makes no number of. {WHAT_TO_DO}"
            )
