"""What enters the head in a forward pass, and which module the head is: by its name, or by what it makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vecaf_hf.scoring.head import HEAD_NAMES, alike, find_head, flat, logits_from, makes, that_learns, without_wrappers


@dataclass(frozen=True)
class Call:
    """Of a module in a forward pass: the first tensor that entered it, and what left it."""

    module: nn.Module
    entered: Tensor
    left: Tensor


class TwoHeads(nn.Module):
    """Heads whose logits are added up, as of distilled models. Takes what enters them side by side, or once where both
    take the same.

    Args:
        heads: Modules of the model.
        widths: Of what enters each.
        shared: Whether both take the same.
        divisor: Of the sum: 1, or 2 for a mean.
    """

    def __init__(self, heads: Sequence[nn.Module], widths: Sequence[int], shared: bool, divisor: int) -> None:
        super().__init__()
        self.heads, self.widths, self.shared, self.divisor = nn.ModuleList(heads), list(widths), shared, divisor

    @property
    def training(self) -> bool:
        """Of its heads: the model's mode, which it must not change by being made."""
        return self.heads[0].training if "heads" in self._modules else True

    @training.setter
    def training(self, mode: bool) -> None:
        pass

    def forward(self, embeddings: Tensor) -> Tensor:
        """[N, d] -> [N, C]."""
        parts = [embeddings, embeddings] if self.shared else embeddings.split(self.widths, dim=1)
        first, second = (logits_from(head, part) for head, part in zip(self.heads, parts, strict=True))
        return (first + second) / self.divisor


class Head:
    """The head of a model, for what reads embeddings; a first forward pass settles which module it is.

    Args:
        model: Of transformers, timm or the user.
        name: Dotted path of the head, or None.
        reader: Who reads embeddings, for messages; "" for nobody: then no head is looked for.
        may_be_scaled: Whether the model may multiply what its head makes: nobody makes logits by the head alone.

    Attributes:
        found: The head, or what it probably is; None before a forward pass where no name tells.

    Raises:
        ValueError: The model has no such module, or was loaded without a head.
    """

    def __init__(self, model: nn.Module, name: str | None, reader: str, may_be_scaled: bool = False) -> None:
        self.model, self.name, self.reader, self.may_be_scaled = model, name, reader, may_be_scaled
        self.found = find_head(model, name) if name is not None or reader else None
        self.is_settled = False
        self._takes_tokens = False

    @property
    def module(self) -> nn.Module:
        """The head.

        Raises:
            RuntimeError: Nobody was to read embeddings, or no forward pass has come yet.
        """
        if self.found is None:
            raise RuntimeError("the head was never looked for; this is a bug in vecaf_hf")
        return self.found

    @property
    def takes_one(self) -> bool:
        """Whether one module is the head, and one embedding per sample is all that enters it."""
        return not isinstance(self.found, TwoHeads) and not self._takes_tokens

    @contextmanager
    def watched(self) -> Iterator[list[Call]]:
        """Inside the block, the list has the head's calls; until it is settled, those of other modules too that take
        and give one row per sample."""
        calls: list[Call] = []
        if not self.reader:
            yield calls
            return
        known = _parts(self.found)

        def keep(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            entered = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            if entered is None or not isinstance(output, Tensor):
                return
            if module in known or (_has_rows(entered) and _has_rows(output) and len(entered) == len(output)):
                calls.append(Call(module, entered, output))

        others = () if self.is_settled else without_wrappers(self.model).modules()
        handles = [module.register_forward_hook(keep, with_kwargs=True) for module in dict.fromkeys((*known, *others))]
        try:
            yield calls
        finally:
            for handle in handles:
                handle.remove()

    def embeddings(self, calls: Sequence[Call], logits: Tensor, check: bool, mask: Tensor | None = None) -> Tensor:
        """What has entered the head in a forward pass. [N, d].

        Args:
            calls: Of that pass.
            logits: It made them. [N, C].
            check: Whether to make sure that the head makes them of that.
            mask: Which tokens are none but filling, for a head that is given all of them. [N, T].

        Raises:
            ValueError: No module takes one embedding per sample and makes the logits.
        """
        why = "" if self.found is not None else "no name tells it, and no module makes its logits so"
        if self.found is not None:
            try:
                embeddings = _entered(self.found, calls, logits, mask)
                if not check or self._fits(calls, embeddings, logits):
                    self.is_settled = True
                    self._takes_tokens |= any(call.entered.dim() == 3 for call in calls if call.module is self.found)
                    return embeddings
                why = (
                    f"{type(self.found).__name__} does not turn the embedding into the model's logits (something "
                    "follows it, or there is a second head)"
                )
            except ValueError as error:
                why = str(error)
        if self.is_settled or self.name is not None or logits.dim() != 2 or not self._search(calls, logits):
            raise self._refusal(logits, why)
        return self.embeddings(calls, logits, check=True)

    def _search(self, calls: Sequence[Call], logits: Tensor) -> bool:
        """Whether a module, or two together, are found that make the logits of one embedding per sample."""
        root = without_wrappers(self.model)
        rows = [call for call in calls if _has_rows(call.entered) and call.left.flatten(1).shape == logits.shape]
        rows = [call for call in rows if call.module is not root and next(call.module.parameters(), None) is not None]
        makers = [call for call in rows if _equal(call.left.flatten(1), logits)]
        if not makers and self._search_two(rows, logits):
            return True
        if not makers and self.may_be_scaled:
            makers = [call for call in rows if _is_scaled(call.left.flatten(1), logits)]
        if not makers:
            return False
        # The innermost, and what does no more than to call it, such as LoRA's layer.
        first = flat(makers[0].entered)
        alone = [call for call in makers if _equal(flat(call.entered), first)]
        learning = that_learns(alone[-1].module)
        # PEFT's copy, unless its adapters are off.
        self.found = learning if any(call.module is learning for call in alone) else alone[-1].module
        its = [call for call in calls if call.module is self.found]
        return len(its) == 1 and self._fits(its, first, logits)

    def _search_two(self, rows: Sequence[Call], logits: Tensor) -> bool:
        """Whether the logits are the sum or the mean of what these calls, of two heads, have left."""
        heads: list[Call] = []
        for call in rows:
            if not any(_equal(call.left, head.left) for head in heads):
                heads.append(call)
        if len(heads) != 2:
            return False
        first, second = heads
        for divisor in (2, 1):
            if alike((first.left + second.left).flatten(1) / divisor, logits):
                widths = [flat(head.entered).shape[1] for head in heads]
                modules = [that_learns(head.module) for head in heads]
                self.found = TwoHeads(modules, widths, first.entered is second.entered, divisor)
                return True
        return False

    def _fits(self, calls: Sequence[Call], embeddings: Tensor, logits: Tensor) -> bool:
        """Whether the head makes the logits of these embeddings, and what it has left in the pass are the logits."""
        head: Any = self.found
        if not isinstance(head, TwoHeads):
            # Small logits of two heads are much alike.
            (left,) = [call.left for call in calls if call.module is head]
            if left.dim() != 3 and not _equal(left.flatten(1), logits):
                if not self.may_be_scaled or not _is_scaled(left.flatten(1), logits):
                    return False
                logits = left.flatten(1)
        return makes(head, embeddings, logits)

    def _refusal(self, logits: Tensor, why: str) -> ValueError:
        names = ", ".join(HEAD_NAMES)
        looked = "" if self.name is not None else f" (looked for {names}, and for whatever makes the logits)"
        model = type(self.model).__name__
        return ValueError(
            f"{self.reader} reads the embedding that enters the head, and {model} shows none: {why}. A head "
            f"is a module that turns one embedding per sample, [{len(logits)}, d], into the logits, here "
            f"{list(logits.shape)}{looked}: name it with the argument `head`, or choose a strategy that reads no "
            "embedding, such as 'balanced' or 'random'"
        )

    # --- Several processes ---

    def state(self) -> tuple[list[str], bool, Any] | None:
        """What was found, for a process that has seen no sample; None where nothing was."""
        if not self.is_settled:
            return None
        names = {module: name for name, module in self.model.named_modules()}
        found = [names[module] for module in _parts(self.found)]
        if isinstance(self.found, TwoHeads):
            return found, False, (self.found.widths, self.found.shared, self.found.divisor)
        return found, self._takes_tokens, None

    def adopt(self, state: tuple[list[str], bool, Any]) -> None:
        """Take what another process has found."""
        names, self._takes_tokens, two = state
        modules = [self.model.get_submodule(name) for name in names]
        self.found = modules[0] if two is None else TwoHeads(modules, *two)
        self.is_settled = True


def _parts(head: nn.Module | None) -> list[nn.Module]:
    """The modules of the model that a head is made of."""
    if isinstance(head, TwoHeads):
        return list(head.heads)
    return [] if head is None else [head]


def _has_rows(values: Tensor) -> bool:
    """Whether it is [N, d], or [N, d, 1, 1]."""
    return values.dim() >= 2 and values.flatten(1).shape[1] == values.shape[1]


def _equal(one: Tensor, other: Tensor) -> bool:
    """To the last bit; a NaN is a NaN."""
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=0, atol=0, equal_nan=True)


def _is_scaled(left: Tensor, logits: Tensor) -> bool:
    """Whether the logits are what a head has left times one positive number, such as a learned temperature."""
    left, logits = left.double(), logits.double()
    if left.shape != logits.shape or not left.any():
        return False
    scale = (left * logits).sum() / left.square().sum()
    return bool(scale > 0) and alike(scale * left, logits)


def _entered(head: nn.Module, calls: Sequence[Call], logits: Tensor, mask: Tensor | None) -> Tensor:
    """What has entered a head, one embedding per sample. [N, d]."""
    entered = []
    for part in _parts(head):
        found = [call for call in calls if call.module is part]
        if len(found) != 1:
            raise ValueError(f"its {type(part).__name__} is called {len(found)} times in a forward pass")
        tokens = _of_tokens(found[0], logits, mask)
        entered.append(flat(found[0].entered) if tokens is None else tokens)
        if len(entered[-1]) != len(logits):
            raise ValueError(
                f"a tensor of shape {list(entered[-1].shape)} enters the head, not one embedding per sample"
            )
    return entered[0] if len(entered) == 1 or cast(TwoHeads, head).shared else torch.cat(entered, dim=1)


def _of_tokens(call: Call, logits: Tensor, mask: Tensor | None) -> Tensor | None:
    """Of a head that is given all tokens, [N, T, d], the one that the model takes the logits of; None where it takes
    those of none. [N, d]."""
    entered, left = call.entered, call.left
    if entered.dim() != 3 or left.dim() != 3 or (len(left), left.shape[2]) != tuple(logits.shape):
        return None
    same = (left.float() == logits.float()[:, None]).all(dim=2)
    if mask is not None and mask.shape == same.shape:
        same &= mask.bool()
    if not same.any(dim=1).all():
        return None
    # Decoders take the last token. Few numbers of few bits may be the same by chance.
    last = same.shape[1] - 1 - same.flip(1).int().argmax(dim=1)
    return entered[torch.arange(len(entered), device=entered.device), last]
