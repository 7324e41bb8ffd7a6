"""Feature levels: what a model makes of an image at several depths, seen by hooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vecaf_hf.scoring.head import Hook, without_wrappers
from vecaf_hf.selection.candidates import evenly_spaced

# LearnLoss looks at the four stages of a ResNet.
MOST_LEVELS = 4


class FeatureLevels:
    """Keeps the pooled features of the forward pass that is being recorded; all other passes are left alone.

    Args:
        modules: The levels, from the first to the last.
        channels_last: Whether a feature map is [n, h, w, c]; else it is [n, c, h, w].
    """

    def __init__(self, modules: Sequence[nn.Module], channels_last: bool = False) -> None:
        self.modules, self.channels_last = modules, channels_last
        self._handles: list[RemovableHandle] = []
        self._recording = False
        self._pooled: dict[int, Tensor] = {}

    def attach(self) -> None:
        # For the whole run: a hook that is set after a compiled model's first call does not fire.
        self._handles = [module.register_forward_hook(self._hook(level)) for level, module in enumerate(self.modules)]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside the block a forward pass leaves what `pooled` returns."""
        self._pooled, self._recording = {}, True
        try:
            yield
        finally:
            # Gradient checkpointing runs the blocks once more in the backward pass.
            self._recording = False

    def pooled(self, count: int) -> list[Tensor]:
        """The recorded pass's features of each level, global averages over positions, [count, c] each. They are given
        away: nothing of the pass is held.

        Raises:
            ValueError: The levels are not what the samples pass one by one.
        """
        found, self._pooled = self._pooled, {}
        shapes = [list(found[level].shape) if level in found else None for level in range(len(self.modules))]
        if any(shape is None or shape[0] != count for shape in shapes):
            raise ValueError(
                f"the strategy reads features at {len(shapes)} levels of the model, "
                f"{', '.join(type(module).__name__ for module in self.modules)}, one row for each of {count} samples, "
                f"and sees {shapes}: choose another strategy for this model"
            )
        return [found[level] for level in range(len(shapes))]

    def _hook(self, level: int) -> Any:
        @torch.compiler.disable
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._recording:
                self._pooled[level] = globally_averaged(output, self.channels_last)

        return Hook(record)


def globally_averaged(output: Any, channels_last: bool) -> Tensor:
    """[n, c] in float32 of what a block returns, features or a tuple that begins with them: [n, c], tokens [n, t, c]
    or a map."""
    features = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(features, Tensor) or not 2 <= features.dim() <= 4:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"the strategy averages features [n, c], [n, t, c] or [n, c, h, w], and a block of the model returns "
            f"{found}: choose another strategy for this model"
        )
    places = {2: (), 3: (1,), 4: (1, 2) if channels_last else (2, 3)}[features.dim()]
    return features.float().mean(dim=places) if places else features.float()


def find_levels(model: nn.Module) -> FeatureLevels:
    """At most MOST_LEVELS levels, evenly spaced: of timm's `feature_info`, or of the list of blocks or stages.

    Raises:
        ValueError: The model has neither.
    """
    model = without_wrappers(model)
    # transformers' wrapper of a timm model has it as an attribute.
    inner: Any = getattr(model, "timm_model", model)
    if getattr(inner, "feature_info", None):
        named = dict(inner.named_modules())
        modules = [named[info["module"]] for info in inner.feature_info]
    else:
        modules = _blocks(model)
    kept = [modules[level] for level in evenly_spaced(len(modules), MOST_LEVELS).tolist()]
    return FeatureLevels(kept, channels_last=getattr(inner, "output_fmt", "") == "NHWC")


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Those of the list that holds most of the parameters: it is the outermost, where stages hold blocks."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
    if not lists:
        raise ValueError(
            f"the strategy reads features at several levels of the model, and {type(model).__name__} has no "
            "nn.ModuleList of blocks or stages, and no timm `feature_info`: put its blocks in an nn.ModuleList, or "
            "choose another strategy"
        )
    sizes = [sum(parameter.numel() for parameter in blocks.parameters()) for blocks in lists]
    return list(lists[sizes.index(max(sizes))])
