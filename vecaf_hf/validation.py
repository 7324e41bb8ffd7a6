"""Checks of option values, with errors that name the option, the value and what is allowed."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from vecaf_hf.printable import listed, printable

# Choices that a message lists.
LISTED = 30


def check_choice(option: str, value: object, choices: Iterable[str], or_callable: bool = True) -> None:
    """Raise a ValueError that suggests the nearest choice, unless `value` is one of them or (where the option
    takes one) a callable."""
    choices = list(choices)
    if (or_callable and callable(value)) or value in choices:
        return
    raise ValueError(
        printable(f"{option} is {value!r}{_hint(value, choices)}; choose one of {listed(choices, LISTED)}")
    )


def check_choices(option: str, values: object, choices: Iterable[str]) -> None:
    """The same for an option that is a list of choices."""
    choices = list(choices)
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{option} is {values!r}; it must be a list of some of {', '.join(choices)}")
    for value in values:
        check_choice(option, value, choices, or_callable=False)


def check_options(owner: str, given: Iterable[str], names: Iterable[str]) -> None:
    """Raise a TypeError, as Python does for an unknown keyword, that suggests the nearest of the owner's options."""
    names = list(names)
    for option in given:
        if option not in names:
            raise TypeError(
                f"{owner} has no option {option!r}{_hint(option, names) or '; it takes ' + listed(names, LISTED)}"
            )


def whole(option: str, value: Any, least: int) -> int:
    """The value as an int, NumPy's too; a ValueError unless it is a whole number of at least this."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{option} is {value!r}; it must be a whole number of at least {least}")
    check_at_least(option, operator.index(value), least)
    return operator.index(value)


def check_fraction(option: str, value: float) -> None:
    _check_number(option, value)
    if not 0 < value <= 1:
        raise ValueError(f"{option} is {value}; it must be above 0 and at most 1")


def check_positive(option: str, value: float) -> None:
    _check_number(option, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{option} is {value}; it must be positive and finite")


def check_at_least(option: str, value: float, least: float) -> None:
    _check_number(option, value)
    if not least <= value < math.inf:
        finite = " and finite" if value == math.inf else ""
        raise ValueError(f"{option} is {value}; it must be at least {least}{finite}")


def _check_number(option: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{option} is {value!r}; it must be a number")


def _hint(value: object, choices: list[str]) -> str:
    folded = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(value).lower(), folded, n=1)
    return f" (did you mean {folded[near[0]]!r}?)" if near else ""
