"""What of sharding goes with a run: FSDP2 with checkpoints that are whole, and DeepSpeed's ZeRO-1 and ZeRO-2."""

from __future__ import annotations

import logging
import os
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers.trainer_utils import HubStrategy

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.scoring.sharded import is_sharded
from vecaf_hf.selection import find_strategy

logger = logging.getLogger(__name__)

# Of Trainer's ways to push, those that take along what a run resumes from.
CHECKPOINTS_PUSHED = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


def is_fsdp(accelerator: Accelerator) -> bool:
    """Whether a model is shared out among the processes once it is prepared."""
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def zero_stage(accelerator: Accelerator) -> int | None:
    """What DeepSpeed shares out: 1, the optimizer's state; 2, gradients too; None without DeepSpeed."""
    plugin: Any = getattr(accelerator.state, "deepspeed_plugin", None)
    return None if plugin is None else int(plugin.zero_stage)


def sharding_of(accelerator: Accelerator) -> dict[str, Any]:
    """By what Trainer writes other files: a resumed run must share it."""
    if is_fsdp(accelerator):
        return {"fsdp": True}
    stage = zero_stage(accelerator)
    if stage is None:
        return {}
    plugin: Any = accelerator.state.deepspeed_plugin
    # Whose the schedule is, and the precision, are in the files that it writes.
    schedules = "scheduler" in plugin.deepspeed_config
    return {"zero_stage": stage, "zero_precision": accelerator.mixed_precision, "zero_schedules": schedules}


def check_sharding(args: VeCAFArguments, accelerator: Accelerator) -> None:
    """Raise a ValueError if FSDP or DeepSpeed is configured in another way than what is supported; warn where
    accelerate leaves it off."""
    if zero_stage(accelerator) is not None:
        _check_zero(args, accelerator)
    elif is_fsdp(accelerator):
        _check_fsdp(args, accelerator)
    else:
        for name in ("FSDP", "DeepSpeed"):
            on = os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() == "true"
            if on or getattr(args, name.lower(), None):
                # accelerate 1.15, AcceleratorState.__init__.
                logger.warning("%s was configured, and accelerate leaves it off: each process has a whole model", name)


def _check_fsdp(args: VeCAFArguments, accelerator: Accelerator) -> None:
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
    _refuse_untried(args, "FSDP")


def _check_zero(args: VeCAFArguments, accelerator: Accelerator) -> None:
    if zero_stage(accelerator) == 3:
        raise ValueError(
            "DeepSpeed's ZeRO-3 was configured, which leaves no process whole weights to score with: set zero_stage 2, "
            "or share out parameters with FSDP2 (accelerate launch --config_file "
            "recipes/configs/accelerate/fsdp2.yaml)"
        )
    pushed = HubStrategy(args.hub_strategy)
    if args.push_to_hub and pushed in CHECKPOINTS_PUSHED:
        raise ValueError(
            f"hub_strategy={pushed.value!r} pushes what a run resumes from, and DeepSpeed keeps that in "
            "pickled objects: set hub_strategy='every_save' or 'end'"
        )
    _refuse_untried(args, "DeepSpeed")


def _refuse_untried(args: VeCAFArguments, engine: str) -> None:
    for name in ("auto_find_batch_size", "torch_compile"):
        if getattr(args, name):
            raise ValueError(f"{name} is not supported with {engine}: leave it out")


def check_model(model: nn.Module, accelerator: Accelerator) -> None:
    """Raise a ValueError if others than accelerate have shared the model out."""
    if is_sharded(model) and not is_fsdp(accelerator):
        raise ValueError(
            "the model's parameters are shared out already, by from_pretrained(distributed_config=...) or fully_shard: "
            "load it whole, and start with FSDP2 (accelerate launch --config_file "
            "recipes/configs/accelerate/fsdp2.yaml)"
        )


def check_strategy(args: VeCAFArguments, accelerator: Accelerator) -> None:
    """Raise a ValueError if the strategy needs what sharding does not have.

    A learner is trained by the model's optimizer: an FSDP checkpoint has the state of the model's own parameters alone
    (torch 2.14, `get_optimizer_state_dict`), and DeepSpeed's engine (0.19) takes no others. Weights cannot be given
    back to a model of which DeepSpeed trains copies.
    """
    strategy = find_strategy(args.strategy)
    if sharding_of(accelerator) and strategy.learns:
        raise ValueError(
            "with FSDP or DeepSpeed the optimizer trains the model alone: choose a strategy without a learner"
        )
    if zero_stage(accelerator) is not None and args.jtt_restart and "mistaken" in strategy.reads:
        raise ValueError(
            f"strategy {args.strategy!r} begins its second training with the first weights, and DeepSpeed trains "
            "copies of its own: set jtt_restart=False, which goes on from the first training"
        )


def refuse_sharding(accelerator: Accelerator, what: str) -> None:
    """Raise a ValueError if FSDP or DeepSpeed is on."""
    if sharding_of(accelerator):
        raise ValueError(f"{what} is not supported with FSDP or DeepSpeed: do it without, in one process")
