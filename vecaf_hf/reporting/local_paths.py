"""Paths of this machine, which no file that leaves it may tell."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

ROOT = r"(?:file://)?(?:~?/|[A-Za-z]:[\\/])"
# A value that is a path as a whole, blanks included.
WHOLE = re.compile(ROOT + r".*", re.DOTALL)
# In a text: from a quote to the next one of its kind.
QUOTED = re.compile(rf"""(?P<quote>["'`])(?P<path>{ROOT}(?:(?!(?P=quote)).)*)(?=(?P=quote))""")
# In a text: what begins like an absolute path, where a word begins. Not the rest of an address, nor a fraction.
IN_TEXT = re.compile(rf"""(?<![^\s"'`(=\[,:])(?!(?<=:)//){ROOT}[^\s"'`()\[\],:;|<>]+""")
# Keys of a config whose value is where something was loaded from.
PLACES = ("name_or_path", "path", "file", "dir")


def is_local_path(text: str) -> bool:
    """Whether this is written like a path, or lies on this machine: no id of the Hub."""
    looks = text.startswith(("~", ".", "/", "\\")) or "\\" in text or PureWindowsPath(text).drive != ""
    return looks or Path(text).exists()


def without_paths(value: Any, folders: Collection[str]) -> Any:
    """JSON values of which every absolute path, and every path into one of these folders, keeps only its last part.

    Args:
        value: What `json.loads` gives.
        folders: Folders as they may be written, relative ones too.
    """
    if isinstance(value, dict):
        return {key: without_paths(held, folders) for key, held in value.items()}
    if isinstance(value, list):
        return [without_paths(held, folders) for held in value]
    if not isinstance(value, str):
        return value
    if WHOLE.fullmatch(value) or any(value == folder or value.startswith(f"{folder}/") for folder in folders):
        return _last_part(value)
    value = QUOTED.sub(lambda found: found["quote"] + _last_part(found["path"]), value)
    return IN_TEXT.sub(lambda found: _last_part(found[0]), value)


def without_places(config: Any) -> Any:
    """A config without the entries that say where on this machine it, or a part of it, was loaded from. Names of
    classes, and a vocabulary, stay whatever they look like."""
    if isinstance(config, list):
        return [without_places(held) for held in config]
    if not isinstance(config, dict):
        return config
    kept = {key: held for key, held in config.items() if not _tells_place(key, held)}
    return {key: without_places(held) for key, held in kept.items()}


def _tells_place(key: str, value: Any) -> bool:
    return key.endswith(PLACES) and isinstance(value, str) and bool(value) and is_local_path(value)


def _last_part(path: str) -> str:
    parts = PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
    return parts.name
