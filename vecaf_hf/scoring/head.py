"""The classification head, and the embedding that enters it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vecaf_hf.scoring.losses import has_half_precision

HEAD_NAMES = ("classifier", "head", "fc", "score", "classification_head")


def find_head(model: nn.Module, name: str | None = None) -> nn.Module | None:
    """What is most likely the module whose input is the sample's embedding and whose output is the logits, by its name;
    None where a forward pass must show it: `entering.Head`.

    Args:
        model: Any classifier of transformers, or of timm through transformers' `TimmWrapper`.
        name: Dotted path of the head inside the model, where the search does not find it.

    Raises:
        ValueError: There is no such module, or the model was loaded without a head.
    """
    model = without_wrappers(model)
    if name is not None:
        modules = dict(model.named_modules())
        if name not in modules:
            raise ValueError(f"head is {name!r}, and {type(model).__name__} has no such module")
        return that_learns(modules[name])
    found = _timm_head(model.timm_model) if hasattr(model, "timm_model") else named_head(model)
    return None if found is None else that_learns(found)


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model that has the head: PEFT wraps it."""
    base: Any = getattr(model, "get_base_model", None)
    return model if base is None else base()


def that_learns(head: nn.Module) -> nn.Module:
    """The head itself, or the copy of it that PEFT trains beside the original (`modules_to_save`)."""
    copies: Any = getattr(head, "modules_to_save", None)
    active: Any = getattr(head, "active_adapters", None)
    return copies[active[0]] if isinstance(copies, nn.ModuleDict) and active else head


def _timm_head(model: Any) -> nn.Module | None:
    head = model.get_classifier()
    if isinstance(head, nn.Identity):
        raise ValueError(f"{type(model).__name__} has no classification head: set num_labels when you load it")
    # Heads by the list are never called as one (CrossViT, distilled models).
    return head if isinstance(head, nn.Module) and not isinstance(head, nn.ModuleList) else None


def named_head(model: nn.Module) -> nn.Module | None:
    """The module with parameters that has the name of a head; None where there is none."""
    for name in HEAD_NAMES:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module) and any(True for _ in head.parameters()):
            return head
    return None


def flat(embedding: Tensor) -> Tensor:
    """[N, d] of what enters a head, which may be [N, d] or [N, d, 1, 1].

    Raises:
        ValueError: The head takes a sequence or a feature map.
    """
    flattened = embedding.flatten(1)
    if embedding.dim() != 2 and flattened.shape[1] != embedding.shape[1]:
        raise ValueError(f"a tensor of shape {list(embedding.shape)} enters the head, not one embedding per sample")
    return flattened


class Hook:
    """A run's hook on a module of its model. A copy of the model, such as an EMA's, is plain: there it does nothing.

    Args:
        call: What it does, with the arguments of a hook; None for nothing.
    """

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return None if self.call is None else self.call(*args)

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        # Of `copy` and `pickle` both. The method would take its object along: text encoder, processes and all.
        return Hook, ()


def logits_from(head: nn.Module, embeddings: Tensor) -> Tensor:
    """[N, C] of a head for embeddings [N, d]."""
    try:
        found = head(embeddings)
    except RuntimeError:
        # A convolutional head takes [N, d, 1, 1].
        found = head(embeddings[:, :, None, None])
    return found.flatten(1)


def makes(head: nn.Module, embeddings: Tensor, logits: Tensor) -> bool:
    """Whether head(embeddings) gives the model's logits: else it is not the whole head."""
    return alike(logits_from(head, embeddings), logits)


def alike(found: Tensor, logits: Tensor) -> bool:
    """Whether these are the same logits, up to their precision; NaN, too: Candidates names the sample."""
    is_half = any(map(has_half_precision, (found, logits)))
    found, logits = found.detach().float(), logits.detach().float()
    within = (1e-2 if is_half else 1e-4) * float(logits.nan_to_num().abs().max())
    return found.shape == logits.shape and torch.allclose(found, logits, rtol=0, atol=within, equal_nan=True)
