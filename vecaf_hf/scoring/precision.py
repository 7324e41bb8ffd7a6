"""The precision of scoring passes."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator

from vecaf_hf.selection.rounded import has_native_bfloat16

logger = logging.getLogger(__name__)


def scoring_precision(accelerator: Accelerator, bf16: bool | None) -> AbstractContextManager[None]:
    """A block for a scoring pass: in bfloat16, or else in the training's precision."""
    return torch.autocast(accelerator.device.type, torch.bfloat16) if bf16 else accelerator.autocast()


def check_bf16(accelerator: Accelerator) -> None:
    """Raise a ValueError if passes cannot be in bfloat16; warn if they take longer than in float32."""
    if accelerator.mixed_precision in ("fp16", "fp8"):
        # accelerate (1.15) puts its own autocast around a prepared model's forward pass, and the inner one acts.
        raise ValueError(
            f"scoring_bf16 does not go with mixed precision {accelerator.mixed_precision}, in which the model would "
            "score: leave scoring_bf16 off, or train in bf16"
        )
    kind = accelerator.device.type
    is_slow = {
        "cpu": lambda: not has_native_bfloat16(),
        "cuda": lambda: not torch.cuda.is_bf16_supported(including_emulation=False),
    }
    if kind in is_slow and is_slow[kind]():
        logger.warning(
            "scoring_bf16: this %s has no instructions for bfloat16, and scoring may take longer than in float32: "
            "leave it off",
            "processor" if kind == "cpu" else "GPU",
        )
