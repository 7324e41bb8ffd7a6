"""Many cases of one property in one test."""

from __future__ import annotations

import functools
import inspect
import reprlib
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

WIDEST = 90


def called(value: Any) -> str:
    return getattr(value, "__name__", None) or reprlib.repr(value)


def every_case(
    names: str | Sequence[str], cases: Iterable[Any], ids: Callable[[Any], object] | Sequence[str] = called
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `pytest.mark.parametrize` says it, and one test all the same: all cases are tried, and a failure names those
    that fail. Of cheap cases alone that share nothing: fixtures are made once for all of them.

    Args:
        names: Of the test's arguments that a case gives.
        cases: A value each, or a tuple where there are several names.
        ids: What a failure calls a value; or each case.
    """
    one, names = isinstance(names, str), (names,) if isinstance(names, str) else names
    table = [(case,) if one else tuple(case) for case in cases]
    labels = [", ".join(str(ids(value)) for value in case) for case in table] if callable(ids) else ids

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def tries_all(**fixtures: Any) -> None:
            failed, first = [], None
            for label, case in zip(labels, table, strict=True):
                try:
                    test(**fixtures, **dict(zip(names, case, strict=True)))
                except (Exception, pytest.fail.Exception) as error:
                    first = first or error
                    failed.append(f"{' '.join(label.split())[:WIDEST]}: {where(error)}{error}")
            if failed:
                raise AssertionError(f"{len(failed)} of {len(table)} cases\n" + "\n".join(failed)) from first

        given = inspect.signature(test).parameters.values()
        assert table and {each.name for each in given} >= set(names)
        tries_all.__signature__ = inspect.Signature([each for each in given if each.name not in names])
        del tries_all.__wrapped__
        return tries_all

    return decorate


def where(error: BaseException) -> str:
    """The lines of test files that it went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name[:5] == "test_"]
    return "".join(f"{frame.lineno}: " for frame in frames) + ("" if str(error) else type(error).__name__)
