"""Checks of option values, with errors that name the option, the value and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


def check_choice(option: str, value: object, choices: Iterable[str], or_callable: bool = True) -> None:
    """Raise a ValueError that suggests the nearest choice, unless `value` is one of them or (where the option
    takes one) a callable."""
    choices = list(choices)
    if (or_callable and callable(value)) or value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{option} is {value!r}{hint}; choose one of {', '.join(choices)}")


def check_positive(option: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{option} is {value}; it must be positive and finite")


def check_at_least(option: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        finite = " and finite" if value == math.inf else ""
        raise ValueError(f"{option} is {value}; it must be at least {least}{finite}")
