"""The lines of code that load a pushed model, without vecaf_hf."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

TIMM = "timm_wrapper"

# Beside the repository: `amending.REPOSITORY` finds it in these lines.
PIPELINE = """from transformers import pipeline

classify = pipeline("image-classification", model="{0}")
print(classify("image.jpg"))"""
AUTO = """from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("{0}")"""
STATE = """from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

model.load_state_dict(load_file(hf_hub_download("{0}", "model.safetensors")))"""

ADAPTER = """from peft import PeftModel

# Into the model that it was made for, as that was before the finetuning.
model = PeftModel.from_pretrained(model, "{0}")"""


def library_of(model: Any) -> str | None:
    """The library that loads the model's checkpoint by its config; None for a bare module's weights.

    That of a timm model too, wrapped as it is: its weights are named by the wrapper, and timm itself cannot load them.
    """
    if hasattr(model, "get_base_model"):
        return "peft"
    return "transformers" if isinstance(model, PreTrainedModel) else None


def loading_code(model: Any, has_processor: bool, repo_id: str) -> str:
    """How to load the model from this repository.

    Args:
        has_processor: Whether its image processor is saved with it.
    """
    if library_of(model) != "transformers":
        return (ADAPTER if library_of(model) == "peft" else STATE).format(repo_id)
    if model.config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return AUTO.replace("AutoModelForImageClassification", type(model).__name__).format(repo_id)
    # A wrapped timm model keeps its processor in its config.
    return (PIPELINE if has_processor or model.config.model_type == TIMM else AUTO).format(repo_id)
