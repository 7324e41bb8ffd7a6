"""Finetune pretrained vision models on the samples worth training on: VeCAF (arXiv 2401.07853) for transformers."""

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
