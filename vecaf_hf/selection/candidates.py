"""What the scoring pass hands to a selection strategy."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vecaf_hf.seeding import seed_of
from vecaf_hf.selection.processes import ALONE, Processes, Spread


@dataclass(frozen=True)
class LinearHead:
    """A linear classification head, frozen.

    Args:
        weight: [C, d].
        bias: [C].

    Raises:
        ValueError: The shapes disagree.
    """

    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        if self.weight.dim() != 2 or self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                f"a linear head has a weight [C, d] and a bias [C], got {_describe(self.weight)} and "
                f"{_describe(self.bias)}"
            )

    def logits(self, embeddings: Tensor) -> Tensor:
        """[N, d] -> [N, C]."""
        return functional.linear(embeddings, self.weight, self.bias)

    def to(self, device: torch.device | str) -> LinearHead:
        return LinearHead(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True)
class Turn:
    """Whose turn it is where of equal claims not all can have one more: the seed draws an order, and each loop goes on
    in it where the loop before stopped.

    Args:
        seed: The same in all loops of a run.
        loop: 0-based.
    """

    seed: int
    loop: int = 0

    def among(self, count: int, due: int) -> Tensor:
        """So many of `count`; each as often as any other over loops that ask for as many each time. [due]."""
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(self.seed, count)))
        return order[(self.loop * due + torch.arange(due)) % count]


# Of what is checked row by row.
DIMENSIONS = {
    "embeddings": 2,
    "losses": 1,
    "logits": 2,
    "relevance": 1,
    "selected": 1,
    "irreducible": 1,
    "training_losses": 1,
    "learned_scores": 1,
    "images": 4,
    "groups": 1,
    "class_sizes": 1,
    "mistaken": 1,
    "appearance": 2,
}


@dataclass(frozen=True)
class Candidates:
    """Samples of the pool that a strategy may choose from. Row `r` of every tensor is the same sample.

    Args:
        indices: Positions in the pool, distinct. LongTensor [M].
        embeddings: What enters the classification head, in float32 or half precision. [M, d].
        losses: Finetuning loss of each sample, at least 0. [M].
        labels: Class of each sample, LongTensor [M]; or a multi-label target [M, C].
        logits: Output of the head. [M, C].
        relevance: Factor on each sample's selection probability (domain affinity), at least 0. [M].
        selected: Whether an earlier loop selected the sample. BoolTensor [M].
        irreducible: Loss of each sample under a model that was fitted on held-out data. [M].
        training_losses: Loss of each sample as training saw it last, NaN where it has not. [M].
        learned_scores: What the strategy's learner makes of each sample; the largest are to be selected. [M].
        images: The images, where a learner looks at them. [M, c, h, w].
        head: What turns embeddings into logits, where a linear layer does.
        progress: Part of the run that is over, in [0, 1).
        mistaken: Whether the model got the sample wrong when the first training of JTT ended. BoolTensor [M].
        appearance: How each sample's image looks: what conditions are found in, and no strategy reads. [M, s].
        groups: Hidden group of each sample, for the oracle alone: no other strategy is given it. LongTensor [M].
        class_sizes: How many samples of the pool have each sample's class, where the candidates are a part of the pool
            that need not have its class shares; None to count the candidates. LongTensor [M].
        turn: Whose turn it is in this loop to have what is left over after equal shares.
        processes: Those that run the strategy, for one that shares its work: where it reads this field, all run it, and
            where it does not, the main process alone.
        shared_embeddings: The embeddings, of which each process holds those that it has scored; `embeddings` is None
            then. Only a strategy that reads `processes` is given these.

    A field that no part of the run needs is None: `full` and `random` train without a scoring pass.

    Raises:
        ValueError: A field has another number of rows, repeats an index, or holds a NaN (but for losses that training
            has not seen), an infinity or a negative loss, or the head takes embeddings of another size. The message
            names the field and the sample's index in the pool.
    """

    indices: Tensor
    embeddings: Tensor | None = None
    losses: Tensor | None = None
    labels: Tensor | None = None
    logits: Tensor | None = None
    relevance: Tensor | None = None
    selected: Tensor | None = None
    irreducible: Tensor | None = None
    training_losses: Tensor | None = None
    learned_scores: Tensor | None = None
    images: Tensor | None = None
    head: LinearHead | None = None
    progress: float | None = None
    mistaken: Tensor | None = None
    appearance: Tensor | None = None
    groups: Tensor | None = None
    class_sizes: Tensor | None = None
    turn: Turn | None = None
    processes: Processes = ALONE
    shared_embeddings: Spread | None = None

    def __post_init__(self) -> None:
        if self.indices.dim() != 1 or self.indices.dtype != torch.long:
            raise ValueError(f"indices must be a LongTensor [M], got {_describe(self.indices)}")
        if self.indices.unique().numel() != len(self):
            raise ValueError("indices must be distinct")
        for name, dimensions in DIMENSIONS.items():
            self._check(name, dimensions)
        for name, flags in (("selected", self.selected), ("mistaken", self.mistaken)):
            if flags is not None and flags.dtype != torch.bool:
                raise ValueError(f"{name} must be a BoolTensor [M], got {_describe(flags)}")
        if self.groups is not None and self.groups.dtype != torch.long:
            raise ValueError(f"groups must be a LongTensor [M], got {_describe(self.groups)}")
        head, embeddings = self.head, self.embeddings
        if head is not None and embeddings is not None and head.weight.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"the head takes {head.weight.shape[1]} features, and embeddings are {_describe(embeddings)}"
            )
        shared = self.shared_embeddings
        if shared is not None and (embeddings is not None or shared.size != len(self)):
            raise ValueError(f"embeddings of {shared.size} samples are shared, for {len(self)}, or are there twice")
        if shared is not None and not self._rises:
            raise ValueError("where embeddings are shared, indices must rise")
        if self.labels is not None and len(self.labels) != len(self):
            raise ValueError(f"labels has {len(self.labels)} rows for {len(self)} samples")
        for name in ("losses", "relevance"):
            self.check_not_negative(name)

    def needed_classes(self, strategy: str) -> Tensor:
        """`classes`; a ValueError that names the strategy where there are none."""
        if self.classes is None:
            raise ValueError(f"strategy {strategy!r} needs labels that are one class per sample")
        return self.classes

    def given(self, name: str) -> Tensor:
        """A field that must be there; a ValueError that names it where it is not."""
        values: Tensor | None = getattr(self, name)
        if values is None:
            raise ValueError(f"the candidates have no {name}")
        return values

    @property
    def _rises(self) -> bool:
        """Whether the candidates come in the order of the pool."""
        return bool((self.indices[1:] > self.indices[:-1]).all())

    @property
    def has_embeddings(self) -> bool:
        """Whether there are any, in whichever process."""
        return self.embeddings is not None or self.shared_embeddings is not None

    @property
    def held_embeddings(self) -> Spread:
        """The embeddings that this process holds: all, or its share."""
        return Spread.of(self.given("embeddings")) if self.shared_embeddings is None else self.shared_embeddings

    @property
    def spread_embeddings(self) -> Spread:
        """The embeddings of which each of `processes` works on a share, whether it holds more or not."""
        if self.shared_embeddings is not None:
            return self.shared_embeddings
        return Spread.evenly(self.given("embeddings"), self.processes)

    def with_embeddings(self, own: Tensor) -> Candidates:
        """The same with these in place of the embeddings that this process holds, in their precision. [n, d]."""
        shared, own = self.shared_embeddings, own.to(self.held_embeddings.own.dtype)
        if shared is None:
            return replace(self, embeddings=own)
        check_finite("embeddings", shared.whole(own.isfinite().all(dim=1)), self.indices)
        return replace(self, shared_embeddings=replace(shared, own=own))

    def whole(self) -> Candidates:
        """The same with all embeddings in every process; each must ask for it."""
        shared = self.shared_embeddings
        return self if shared is None else replace(self, embeddings=shared.whole(shared.own), shared_embeddings=None)

    def among(self, processes: Processes) -> Candidates:
        """The same, for these to select from together."""
        shared = self.shared_embeddings
        shared = None if shared is None else replace(shared, processes=processes)
        return replace(self, processes=processes, shared_embeddings=shared)

    def check_not_negative(self, name: str) -> None:
        """Raise a ValueError that names the sample if a field of one number per sample has a negative one."""
        values: Tensor | None = getattr(self, name)
        if values is not None and (values < 0).any():
            row = int((values < 0).nonzero()[0, 0])
            raise ValueError(
                f"{name} of sample {int(self.indices[row])} is {float(values[row]):g}: selection weights "
                "follow it, so it must not be negative (shift the objective by a constant)"
            )

    def _check(self, name: str, dimensions: int) -> None:
        values: Tensor | None = getattr(self, name)
        if values is None:
            return
        if values.dim() != dimensions or len(values) != len(self):
            raise ValueError(
                f"{name} must have {dimensions} dimension(s) and {len(self)} rows, got {_describe(values)}"
            )
        if name == "training_losses":
            values = values.masked_fill(values.isnan(), 0)
        # One pass that allocates nothing of the field's size: a sum is finite unless an element is not
        # (or the sum overflows, which the exact search below then clears).
        if values.sum().isfinite():
            return
        check_finite(name, values.isfinite().reshape(len(self), -1).all(dim=1), self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def classes(self) -> Tensor | None:
        """The labels where they are one class per sample, LongTensor [M]; None for others (multi-label, regression)."""
        labels = self.labels
        return labels if labels is not None and labels.dim() == 1 and not labels.is_floating_point() else None

    def turn_by(self, generator: torch.Generator) -> Turn:
        """`turn`; the first one that the generator's seed draws where none is told."""
        return self.turn or Turn(generator.initial_seed())

    def take(self, rows: Tensor) -> Candidates:
        """The candidates at these rows (LongTensor, rising where embeddings are shared, or a mask over rows)."""
        taken: dict[str, Any] = {name: values[rows] for name, values in self.tensors().items()}
        if self.shared_embeddings is not None:
            rows = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
            taken["shared_embeddings"] = self.shared_embeddings.take(rows)
        return replace(self, **taken)

    def in_pool_order(self) -> Candidates:
        """The same candidates by rising index: what follows cannot depend on the order they came in."""
        if self._rises:
            return self
        return self.take(self.indices.argsort())

    def to(self, device: torch.device | str) -> Candidates:
        """The same with all tensors on the device."""
        moved: dict[str, Any] = {name: values.to(device) for name, values in self.tensors().items()}
        further = {"head": self.head, "shared_embeddings": self.shared_embeddings}
        moved |= {name: value.to(device) for name, value in further.items() if value is not None}
        return replace(self, **moved)

    def tensors(self) -> dict[str, Any]:
        """The fields of samples that there are, by name."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: values for name, values in found.items() if isinstance(values, Tensor)}


def check_finite(name: str, finite: Tensor, indices: Tensor) -> None:
    """Raise a ValueError that names the first of these samples whose field is not. BoolTensor [M], LongTensor [M]."""
    bad = ~finite
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        suspects = "the model's weights" if bad.all() else "this sample's image and label"
        raise ValueError(
            f"{name} of sample {int(indices[row])} is not finite ({int(bad.sum())} such samples): "
            f"check {suspects}, or whether training has diverged"
        )


def evenly_spaced(size: int, most: int) -> Tensor:
    """At most `most` of `size` rows, from the first to the last. LongTensor [min(size, most)]."""
    return torch.linspace(0, size - 1, min(size, most), dtype=torch.float64).round().long()


def _describe(values: Tensor) -> str:
    return f"{values.dtype} {list(values.shape)}"
