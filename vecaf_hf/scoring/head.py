"""The classification head, and the embedding that enters it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HEAD_NAMES = ("classifier", "head", "fc")
SECOND_HEADS = ("distillation_classifier", "classifier_distill", "dist_head", "head_dist")


def find_head(model: nn.Module, name: str | None = None) -> nn.Module:
    """The module whose input is the sample's embedding and whose output is the logits.

    Args:
        model: Any image classifier of transformers, or of timm through transformers' `TimmWrapper`.
        name: Dotted path of the head inside the model, where the search does not find it.

    Raises:
        ValueError: There is no such module, no head is found, or there are two of them (distilled models).
    """
    model = without_wrappers(model)
    if name is not None:
        modules = dict(model.named_modules())
        if name not in modules:
            raise ValueError(f"head is {name!r}, and {type(model).__name__} has no such module")
        return _that_learns(modules[name])
    return _that_learns(_timm_head(model.timm_model) if hasattr(model, "timm_model") else _named_head(model))


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model that has the head: PEFT wraps it."""
    base: Any = getattr(model, "get_base_model", None)
    return model if base is None else base()


def _that_learns(head: nn.Module) -> nn.Module:
    """The head itself, or the copy of it that PEFT trains beside the original (`modules_to_save`)."""
    copies: Any = getattr(head, "modules_to_save", None)
    active: Any = getattr(head, "active_adapters", None)
    return copies[active[0]] if isinstance(copies, nn.ModuleDict) and active else head


def _timm_head(model: Any) -> nn.Module:
    head = model.get_classifier()
    if isinstance(head, (tuple, list)):
        raise _two_heads(model)
    if isinstance(head, nn.Identity):
        raise ValueError(f"{type(model).__name__} has no classification head: set num_labels when you load it")
    return head


def _named_head(model: nn.Module) -> nn.Module:
    if any(hasattr(model, second) for second in SECOND_HEADS):
        raise _two_heads(model)
    for name in HEAD_NAMES:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module) and any(True for _ in head.parameters()):
            return head
    children = ", ".join(name for name, _ in model.named_children())
    raise ValueError(
        f"no classification head found in {type(model).__name__} (looked for {', '.join(HEAD_NAMES)}; "
        f"it has {children}): name it with the argument `head`"
    )


def _two_heads(model: nn.Module) -> ValueError:
    return ValueError(
        f"{type(model).__name__} has two heads (it was distilled), so no single embedding enters the logits: "
        "load its variant with one head"
    )


def flat(embedding: Tensor) -> Tensor:
    """[N, d] of what enters a head, which may be [N, d] or [N, d, 1, 1].

    Raises:
        ValueError: The head takes a sequence or a feature map.
    """
    flattened = embedding.flatten(1)
    if embedding.dim() != 2 and flattened.shape[1] != embedding.shape[1]:
        raise ValueError(
            f"a tensor of shape {list(embedding.shape)} enters the head, not one embedding per sample: name with "
            "`head` the module that the pooled embedding enters"
        )
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


@contextmanager
def captured_embeddings(head: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block, what enters the head in each forward is appended to the list. Each [N, d]."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(flat(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()


def logits_from(head: nn.Module, embeddings: Tensor) -> Tensor:
    """[N, C] of a head for embeddings [N, d]."""
    try:
        found = head(embeddings)
    except RuntimeError:
        # A convolutional head takes [N, d, 1, 1].
        found = head(embeddings[:, :, None, None])
    return found.flatten(1)


def check_head(head: nn.Module, embeddings: Tensor, logits: Tensor) -> None:
    """Raise a ValueError unless head(embeddings) gives the model's logits: else it is not the whole head."""
    found = logits_from(head, embeddings)
    if found.shape != logits.shape or not torch.allclose(
        found.float(),
        logits.float(),
        rtol=1e-2,
        atol=1e-3,
        equal_nan=True,  # Candidates names samples with NaN.
    ):
        raise ValueError(
            f"{type(head).__name__} does not turn the embedding into the model's logits (something follows it, or "
            "there is a second head): name the right module with `head`"
        )
