"""How a run can be made again: its arguments as code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers.trainer_pt_utils import AcceleratorConfig

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.augmentation import CEACallback
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.reporting.local_paths import is_local_path
from vecaf_hf.reporting.origins import hub_id

# Where a run's files lie, and what is nobody's business.
LEFT_OUT = {"output_dir", "resume_from_checkpoint", "run_name", "score_cache"}


def as_code(args: VeCAFArguments, cea: CEACallback | None) -> str:
    """The arguments that differ from their defaults, and CEA's, as Python makes them."""
    lines = ["args = VeCAFArguments(\n    output_dir='out',"]
    lines += [f"    {name}={_literal(value)}," for name, value in changed_arguments(args).items()]
    code = "\n".join([*lines, ")"])
    if cea is None:
        return f"from vecaf_hf import VeCAFArguments\n\n{code}"
    return f"from vecaf_hf import CEACallback, VeCAFArguments\n\n{code}\n{_cea_as_code(cea)}"


def changed_arguments(args: VeCAFArguments) -> dict[str, Any]:
    """Arguments that differ from their defaults; tokens and paths of this machine are left out."""
    values = args.to_dict()
    changed = {}
    for field in dataclasses.fields(args):
        value = getattr(args, field.name) if callable(getattr(args, field.name)) else values.get(field.name)
        hidden = field.name in LEFT_OUT or field.name.endswith("_token")
        if field.name == "accelerator_config" and isinstance(value, dict):
            value = {name: held for name, held in value.items() if held != vars(AcceleratorConfig())[name]} or None
        if not hidden and _differs(value, _default(field)) and not (isinstance(value, str) and _is_path(value)):
            changed[field.name] = value
    return changed


def _is_path(text: str) -> bool:
    # An option's word may also be the name of a file that lies where the run was started.
    return "/" in text and is_local_path(text)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _differs(value: Any, default: Any) -> bool:
    # Trainer reads "none" and the empty string as an empty list, and leaves False for what is not set.
    unset: tuple[Any, ...] = (None, False, [], "", "none")
    return value != default and not (value in unset and default in unset)


def _cea_as_code(cea: CEACallback) -> str:
    given: Mapping[str, Any] = dict(vars(cea.options))
    options = {name: value for name, value in given.items() if value != vars(CEAOptions())[name]}
    encoder = hub_id(cea.encoder.name_or_path)
    lines = [
        f"    text_encoder={_literal(encoder)}," if encoder else "    text_encoder=...,  # not on the Hub",
        f"    captions={_literal(cea.captions)}," if isinstance(cea.captions, str) else "    captions=...,  # a list",
        *(f"    {name}={_literal(value)}," for name, value in options.items()),
    ]
    if cea.captioner is not None:
        captioner = hub_id(cea.captioner.name_or_path)
        lines.append(f"    captioner={_literal(captioner)}," if captioner else "    captioner=...,  # not on the Hub")
    return "\n".join(["cea = CEACallback(", *lines, ")"])


def _literal(value: Any) -> str:
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    # Escaped whatever cannot be seen, which `repr` leaves to itself in part.
    return ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
