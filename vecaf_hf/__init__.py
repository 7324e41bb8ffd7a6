"""Finetune pretrained vision models on the samples worth training on: VeCAF (arXiv 2401.07853) for transformers."""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vecaf_hf.arguments import VeCAFArguments
    from vecaf_hf.augmentation.callback import CEACallback
    from vecaf_hf.cli.interruption import interruptible
    from vecaf_hf.conditions.condition import Condition
    from vecaf_hf.data.sharded import ShardedDataset
    from vecaf_hf.selection.candidates import Candidates
    from vecaf_hf.selection.selection import Selection
    from vecaf_hf.text.captioner import Captioner
    from vecaf_hf.text.captioning import caption_dataset
    from vecaf_hf.text.encoder import TextEncoder
    from vecaf_hf.trainer import VeCAFTrainer

__version__ = "0.1.0"

# Loaded when they are asked for (PEP 562): a selection, or a command's help, does not wait for transformers.
PLACES = {
    "CEACallback": "vecaf_hf.augmentation.callback",
    "Candidates": "vecaf_hf.selection.candidates",
    "Captioner": "vecaf_hf.text.captioner",
    "Condition": "vecaf_hf.conditions.condition",
    "ShardedDataset": "vecaf_hf.data.sharded",
    "Selection": "vecaf_hf.selection.selection",
    "TextEncoder": "vecaf_hf.text.encoder",
    "VeCAFArguments": "vecaf_hf.arguments",
    "VeCAFTrainer": "vecaf_hf.trainer",
    "caption_dataset": "vecaf_hf.text.captioning",
    "interruptible": "vecaf_hf.cli.interruption",
}

__all__ = [
    "CEACallback",
    "Candidates",
    "Captioner",
    "Condition",
    "Selection",
    "ShardedDataset",
    "TextEncoder",
    "VeCAFArguments",
    "VeCAFTrainer",
    "__version__",
    "caption_dataset",
    "interruptible",
]


def __getattr__(name: str) -> object:
    if name in PLACES:
        # Kept: the next look does not come here.
        globals()[name] = getattr(import_module(PLACES[name]), name)
        return globals()[name]
    # As if this package had imported its own modules.
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *PLACES])


# For tools that look into modules without asking them, such as pdoc (the variable's name is lazy_loader's).
if os.environ.get("EAGER_IMPORT"):
    for _name in PLACES:
        __getattr__(_name)
