"""Loading a transformers model's weights from a checkpoint, strictly."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel


def reload_model(model: nn.Module, folder: str) -> bool:
    """Load a checkpoint's weights into a transformers model; False for any other model, which is left as it is.

    Trainer loads raw names and ignores what does not match, and several vision models save other names than they have
    in memory (transformers issues 48805, 43701): their encoders would silently not be restored.

    Raises:
        ValueError: The checkpoint lacks weights of the model, or has them in another shape.
    """
    if not isinstance(model, PreTrainedModel):
        return False
    loaded: Any = type(model).from_pretrained(folder, config=model.config, output_loading_info=True)
    saved, info = loaded
    lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if lacking:
        raise ValueError(f"{folder} lacks weights of {type(model).__name__}: {', '.join(lacking[:5])}")
    model.load_state_dict(saved.state_dict(), strict=True)
    return True
