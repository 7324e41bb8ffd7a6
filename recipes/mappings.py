"""Options of a recipe that are options themselves: a mapping in YAML, JSON on the command line."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from vecaf_hf.validation import check_choice


def read_mapping(option: str, given: Mapping[str, Any] | str, names: Collection[str], example: str) -> dict[str, Any]:
    """What an option holds; its values are not checked.

    Args:
        option: Its name, for messages.
        given: Its value, or JSON of it.
        names: That it may hold.
        example: For messages.

    Raises:
        ValueError: It is no mapping, or holds another name.
    """
    values: Any = given
    if isinstance(given, str):
        try:
            values = json.loads(given)
        except json.JSONDecodeError as error:
            raise ValueError(f"{option} is {given!r}, which is no JSON ({error}); give such as {example}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{option} is {given!r}; it must be a mapping of options, such as {example}")
    for name in values:
        check_choice(f"an option in {option}", name, names, or_callable=False)
    return dict(values)
