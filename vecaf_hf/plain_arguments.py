"""Scripts that were written for Trainer: their `TrainingArguments` with VeCAF's defaults."""

from __future__ import annotations

import logging
from dataclasses import fields

from transformers import TrainingArguments

from vecaf_hf.arguments import DEFAULT_FRACTION, VeCAFArguments

logger = logging.getLogger(__name__)


def with_defaults(args: TrainingArguments | None) -> VeCAFArguments:
    """The arguments as VeCAF's: as they are, or `TrainingArguments` with the same values and our options' defaults.

    Args:
        args: Of a trainer; None for the defaults of all.

    Raises:
        ValueError: They are of another subclass of `TrainingArguments` and have options that would be lost; or one of
            Trainer's options breaks the loops (`VeCAFArguments`).
    """
    if isinstance(args, VeCAFArguments):
        return args
    if args is None:
        return VeCAFArguments(output_dir="tmp_trainer")
    # Not what is derived from them, such as the device: it is derived again.
    values = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    unknown = values.keys() - {field.name for field in fields(VeCAFArguments)}
    if unknown:
        raise ValueError(
            f"args are {type(args).__name__}, and VeCAFArguments has no {', '.join(sorted(unknown))}: derive "
            f"{type(args).__name__} from VeCAFArguments"
        )
    if 0 < args.max_steps < VeCAFArguments.num_loops:
        # A few steps, to try a script out.
        values["num_loops"] = args.max_steps
    made = VeCAFArguments(**values)
    logger.warning(
        "args are %s: VeCAF's options have their defaults, strategy=%r, num_loops=%d and "
        "selection_fraction=%g; what is done each epoch is done at each loop's end. Pass VeCAFArguments to choose",
        type(args).__name__,
        made.strategy,
        made.num_loops,
        DEFAULT_FRACTION,
    )
    return made
