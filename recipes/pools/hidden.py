"""A pool that hides rare conditions inside its classes, which no label and, unless asked for, no caption tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from pools.conditions import check_condition
from pools.domains import DOMAINS
from pools.rare import CONDITION, PART, SEVERITY, with_rare
from vecaf_hf.validation import check_fraction, whole

# What a caption that says the condition says; of others, their name.
PHRASES = {"inverted": "in negative colours", "rotated": "turned by a quarter", **DOMAINS}


@dataclass(frozen=True)
class HiddenOptions:
    """Which conditions a pool hides, and how they are tested.

    Args:
        conditions: Some of `pools.conditions.CONDITIONS`.
        part: Of the pool, each condition's.
        severity: Of corruptions, 1 to 5.
        say: Let captions say the condition: "a dress, turned by a quarter".
        tested: Most images of the test split that the model is tested on under each condition.

    Raises:
        ValueError: One of them is none, twice there or out of its range, or they are more than the whole pool.
    """

    conditions: Sequence[str] = ("inverted", "rotated", "snow", "fog")
    part: float = PART
    severity: int = SEVERITY
    say: bool = False
    tested: int = 3000

    def __post_init__(self) -> None:
        if isinstance(self.conditions, str) or not self.conditions:
            raise ValueError(f"conditions is {self.conditions!r}; it must be a list of names")
        for name in self.conditions:
            check_condition(name, self.severity)
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions is {list(self.conditions)}, which has one of them twice")
        check_fraction("part", self.part)
        if self.part * len(self.conditions) > 1:
            raise ValueError(f"part is {self.part}, of {len(self.conditions)} conditions: more than the whole pool")
        if not isinstance(self.say, bool):
            raise ValueError(f"say is {self.say!r}; it must be true or false")
        whole("tested", self.tested, 1)


DEFAULT = HiddenOptions()


def hidden(
    dataset: datasets.Dataset,
    label: str,
    image: str,
    generator: np.random.Generator,
    options: HiddenOptions = DEFAULT,
) -> datasets.Dataset:
    """A hundredth of the images under each condition; the column `condition` tells them, to nothing but the evaluation.

    Raises:
        ValueError: The dataset has a column `condition` already, is too small, or an image of those cannot be read; or
            captions are to say it, and there is no column `caption`.
        ImportError: A condition needs a package that is not there.
    """
    phrases = {name: PHRASES.get(name, f"with {name.replace('_', ' ')}") for name in options.conditions}
    return with_rare(
        dataset,
        image,
        CONDITION,
        options.conditions,
        generator,
        part=options.part,
        severity=options.severity,
        phrases=phrases if options.say else None,
    )
