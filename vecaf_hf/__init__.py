"""Finetune pretrained vision models on the samples worth training on: VeCAF (arXiv 2401.07853) for transformers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vecaf_hf.arguments import VeCAFArguments
    from vecaf_hf.augmentation import Captioner, CEACallback, TextEncoder, caption_dataset
    from vecaf_hf.candidates import Candidates
    from vecaf_hf.selection import Selection
    from vecaf_hf.trainer import VeCAFTrainer

__version__ = "0.1.0"

__all__ = [
    "CEACallback",
    "Candidates",
    "Captioner",
    "Selection",
    "TextEncoder",
    "VeCAFArguments",
    "VeCAFTrainer",
    "__version__",
    "caption_dataset",
]

# Imported when they are asked for: the command's help takes no ten seconds to load torch.
_MODULES = {
    "CEACallback": "augmentation",
    "Candidates": "candidates",
    "Captioner": "augmentation",
    "Selection": "selection",
    "TextEncoder": "augmentation",
    "VeCAFArguments": "arguments",
    "VeCAFTrainer": "trainer",
    "caption_dataset": "augmentation",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
