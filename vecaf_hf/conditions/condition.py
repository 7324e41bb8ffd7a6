"""A condition under which the model fails: what users read, a report shows and a file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vecaf_hf.conditions.finding import Group, find_groups
from vecaf_hf.conditions.naming import Name, name_by_captions
from vecaf_hf.selection.candidates import Candidates

# Members that accuracy by loop is told of, at least.
FEWEST = 5


@dataclass(frozen=True)
class Condition:
    """Samples that fail together.

    Args:
        name: In words; "" where no name was found.
        name_score: How much the name stands out: standard errors, or standard deviations where an encoder named it.
        named_by: `captions`, `images`, or "" where no name was found.
        captions: Up to three of its members.
        members: Positions in the dataset; those that failed come first, of these the most typical.
        accuracy: Of the model on them.
        class_accuracy: On all samples of their classes, each class with its share of the members.
        loss: Mean of the members'.
        class_loss: Of their classes, likewise.
        classes: Members of each class, by its name.
        found: Part of the resamples that find it, at least a half.
        by_loop: Accuracy on those members that each loop's boundary scored. None where these were few, or where nothing
            was scored since the run was resumed; empty where the dataset is not the pool.
    """

    name: str
    name_score: float
    named_by: str
    captions: tuple[str, ...]
    members: tuple[int, ...]
    accuracy: float
    class_accuracy: float
    loss: float
    class_loss: float
    classes: dict[str, int]
    found: float
    by_loop: tuple[float | None, ...] = ()

    @property
    def title(self) -> str:
        """Its name in quotes, or that it has none."""
        return f'"{self.name}"' if self.name else "no name found"

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON values, by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Condition:
        """What `to_json` gave."""
        lists = {name: tuple(values[name]) for name in ("captions", "members", "by_loop")}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class Seen:
    """What a boundary's scores said: which samples were right. LongTensor [M], BoolTensor [M]."""

    indices: Tensor
    right: Tensor

    @classmethod
    def of(cls, candidates: Candidates) -> Seen:
        return cls(candidates.indices, candidates.given("logits").argmax(dim=1) == candidates.given("labels"))

    def accuracy(self, members: Tensor) -> float | None:
        right = self.right[torch.isin(self.indices, members)]
        return float(right.float().mean()) if len(right) >= FEWEST else None


def find_conditions(
    candidates: Candidates,
    captions: Sequence[str | None] | None,
    class_names: Sequence[str],
    earlier: Mapping[int, Seen],
    seed: int,
) -> list[tuple[Condition, Group]]:
    """Groups of scored samples that fail together, named by their captions.

    Args:
        candidates: What `find_groups` takes.
        captions: Of all samples, by position; None without.
        class_names: In the order of the logits.
        earlier: By loop.
        seed: Of what is random.
    """
    groups = find_groups(candidates, seed)
    named = [_named(group, candidates, captions) for group in groups]
    return [(_condition(group, name, class_names, earlier), group) for group, name in zip(groups, named, strict=True)]


def _named(group: Group, candidates: Candidates, captions: Sequence[str | None] | None) -> Name:
    if captions is None:
        return Name("", 0.0, "", ())
    inside = torch.isin(candidates.indices, group.members)
    labels = candidates.given("labels")

    def of(rows: Tensor) -> dict[int, list[str | None]]:
        found: dict[int, list[str | None]] = {label: [] for label in group.classes}
        for index, label in zip(candidates.indices[rows].tolist(), labels[rows].tolist(), strict=True):
            if label in found:
                found[label].append(captions[index])
        return found

    return name_by_captions(of(inside), of(~inside))


def _condition(group: Group, name: Name, class_names: Sequence[str], earlier: Mapping[int, Seen]) -> Condition:
    def called(label: int) -> str:
        return class_names[label] if label < len(class_names) else str(label)

    return Condition(
        name=name.text,
        name_score=name.score,
        named_by=name.by,
        captions=name.captions,
        members=tuple(group.members.tolist()),
        accuracy=group.accuracy,
        class_accuracy=group.class_accuracy,
        loss=group.loss,
        class_loss=group.class_loss,
        classes={called(label): count for label, count in group.classes.items()},
        found=group.found,
        by_loop=tuple(
            earlier[loop].accuracy(group.members) if loop in earlier else None
            for loop in range(max(earlier, default=-1) + 1)
        ),
    )
