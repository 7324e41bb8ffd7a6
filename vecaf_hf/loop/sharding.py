"""What of FSDP goes with a run: FSDP2 with checkpoints that are whole."""

from __future__ import annotations

import logging
import os
from typing import Any

from accelerate import Accelerator
from torch import nn

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.scoring.sharded import is_sharded

logger = logging.getLogger(__name__)


def is_fsdp(accelerator: Accelerator) -> bool:
    """Whether a model is shared out among the processes once it is prepared."""
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def check_sharding(args: VeCAFArguments, accelerator: Accelerator) -> None:
    """Raise a ValueError if FSDP is configured in another way than what is supported; warn where accelerate leaves it
    off."""
    if not is_fsdp(accelerator):
        if getattr(args, "fsdp", None) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
            # accelerate 1.15, AcceleratorState.__init__.
            logger.warning(
                "FSDP was configured, and accelerate turns it on with GPUs alone: each process has a whole model"
            )
        return
    plugin: Any = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(
            "FSDP1 was configured, which does not show whole weights to who scores with them: use FSDP2 "
            "(`accelerate launch --fsdp_version 2`, or fsdp_config={'version': 2})"
        )
    if "FULL" not in str(plugin.state_dict_type):
        raise ValueError(
            f"fsdp_state_dict_type is {plugin.state_dict_type.name}, with which Trainer writes no model that "
            "from_pretrained reads: set FULL_STATE_DICT"
        )
    for name in ("auto_find_batch_size", "torch_compile"):
        if getattr(args, name):
            raise ValueError(f"{name} is not supported with FSDP: leave it out")


def check_model(model: nn.Module, accelerator: Accelerator) -> None:
    """Raise a ValueError if others than accelerate have shared the model out."""
    if is_sharded(model) and not is_fsdp(accelerator):
        raise ValueError(
            "the model's parameters are shared out already, by from_pretrained(distributed_config=...) or fully_shard: "
            "load it whole, and start with FSDP2 (accelerate launch --config_file "
            "recipes/configs/accelerate/fsdp2.yaml)"
        )


def check_learner(accelerator: Accelerator, learns: bool) -> None:
    """Raise a ValueError if FSDP is on, and the strategy has a learner, which the model's optimizer would train: an
    FSDP checkpoint has the optimizer's state of the model's own parameters alone (torch 2.14,
    `get_optimizer_state_dict`)."""
    if is_fsdp(accelerator) and learns:
        raise ValueError("with FSDP the optimizer trains the model alone: choose a strategy without a learner")


def refuse_fsdp(accelerator: Accelerator, what: str) -> None:
    """Raise a ValueError if FSDP is on."""
    if is_fsdp(accelerator):
        raise ValueError(f"{what} is not supported with FSDP: do it without, in one process")
