"""What becomes of samples that cannot be loaded: a corrupt or missing image, a transform that fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import datasets

from vecaf_hf.data.indexed import Unloadable
from vecaf_hf.printable import printable

logger = logging.getLogger(__name__)

ON_BAD_SAMPLE = ("raise", "skip")
# Samples that a message lists.
LISTED = 10


class SampleError(ValueError):
    """Samples of the pool cannot be loaded."""


def refuse(dataset: Any, found: Mapping[int, Unloadable], advice: str) -> None:
    """Raise a SampleError that names samples, files and reasons; its cause holds the first one's traceback."""
    if not found:
        return
    reasons = listed(dataset, {index: bad.reason for index, bad in found.items()})
    raise SampleError(f"cannot load {reasons}. {advice}") from RuntimeError(f"\n{found[min(found)].trace}")


def listed(dataset: Any, reasons: Mapping[int, str]) -> str:
    """The first samples with their files and what went wrong, in one line."""
    lines = [f"{described(dataset, index)}: {printable(reasons[index])}" for index in sorted(reasons)[:LISTED]]
    more = f" (and {len(reasons) - len(lines)} more)" if len(reasons) > len(lines) else ""
    return "; ".join(lines) + more


def described(dataset: Any, index: int) -> str:
    """`sample 17 (cat/17.jpg)`, or without the file where it cannot be told."""
    file = file_of(dataset, index)
    return f"sample {index}" if file is None else f"sample {index} ({printable(file)})"


def file_of(dataset: Any, index: int) -> str | None:
    """Where a sample's image lies: of a `datasets.Dataset` with an image column, or of torchvision's folders."""
    if isinstance(dataset, datasets.Dataset):
        for column, feature in dataset.features.items():
            if isinstance(feature, datasets.Image):
                row = dataset.with_format("arrow")[index][column].to_pylist()[0]
                return (row or {}).get("path")
        return None
    files = getattr(dataset, "samples", None) or getattr(dataset, "imgs", None)
    try:
        return str(files[index][0]) if files else None
    except (TypeError, IndexError, KeyError):
        return None
