"""From a model's tokens to one vector per text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

POOLINGS = ("auto", "pooled", "mean", "last", "cls", "max")
# What sentence-transformers calls them, as a flag `pooling_mode_<name>` or as the value of `pooling_mode`.
SENTENCE_POOLINGS = {
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
    "max": "max",
    "max_tokens": "max",
    "mean": "mean",
    "mean_tokens": "mean",
}


def pool(outputs: Any, mask: Tensor, pooling: str) -> Tensor:
    """One vector per text out of what the model returned.

    Args:
        outputs: A tensor of vectors [n, d_t], or transformers' outputs with `last_hidden_state` [n, L, d_t].
        mask: 1 where there is a token, 0 where there is padding, on either side. [n, L].
        pooling: One of `POOLINGS` but auto.

    Returns:
        [n, d_t].

    Raises:
        ValueError: The model returns no such output.
    """
    if pooling == "pooled":
        return projected(outputs)
    hidden = getattr(outputs, "last_hidden_state", None)
    if hidden is None:
        raise ValueError(f'this encoder returns no tokens for pooling={pooling!r}: choose pooling="pooled"')
    rows = torch.arange(len(hidden), device=hidden.device)
    if pooling == "cls":
        return hidden[rows, mask.argmax(dim=1)]
    if pooling == "last":
        return hidden[rows, mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)]
    if pooling == "max":
        return hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(dim=1)
    return (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def projected(outputs: Any) -> Tensor:
    """The model's own vector per text or image: projected where the model projects. [n, d_t]."""
    vectors = outputs if isinstance(outputs, Tensor) else getattr(outputs, "text_embeds", None)
    if vectors is None:
        vectors = getattr(outputs, "pooler_output", None)
    if vectors is None:
        raise ValueError('this encoder has no pooled output: choose pooling="auto"')
    # FLAVA projects every token; its contrastive loss takes the first.
    return vectors[:, 0] if vectors.dim() == 3 else vectors
