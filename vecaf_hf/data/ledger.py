"""Samples that cannot be loaded: a corrupt or missing image, a transform that fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from vecaf_hf.data.indexed import Unloadable
from vecaf_hf.printable import printable

logger = logging.getLogger(__name__)

# Samples that a message lists.
LISTED = 10


class SampleLedger:
    """Which samples of the pool cannot be loaded, the same in all processes.

    Args:
        ignored: Which samples training ignores; read whenever it is asked which are usable. BoolTensor [N].
        on_bad_sample: `raise`, `check` or `skip`.
        accelerator: Its processes tell each other what they found.

    Attributes:
        failed: By place (`scoring`, `training`, whose transforms may differ), samples with the reason.
        tried: Which samples have been loaded as training loads them. Bool [N].
    """

    def __init__(self, ignored: Tensor, on_bad_sample: str, accelerator: Accelerator) -> None:
        self.ignored, self.on_bad_sample, self.accelerator = ignored, on_bad_sample, accelerator
        self.failed: dict[str, dict[int, str]] = {"scoring": {}, "training": {}}
        self.tried = torch.zeros(len(ignored), dtype=torch.bool)

    @property
    def skipped(self) -> dict[int, str]:
        """Samples that cannot be loaded, with the reason."""
        return dict(sorted((self.failed["scoring"] | self.failed["training"]).items()))

    @property
    def usable(self) -> Tensor:
        """Positions of all samples but the skipped and the ignored ones, rising. LongTensor [n]."""
        kept = ~self.ignored
        kept[list(self.skipped)] = False
        return kept.nonzero().squeeze(1)

    def settle(self, place: str, dataset: Any, asked: Tensor, unloadable: Mapping[int, Unloadable]) -> None:
        """Take note of what could be loaded; called in every process, and all wait for each other.

        Args:
            place: `scoring` or `training`.
            dataset: What was asked.
            asked: Positions that were to be loaded, by all processes together. LongTensor [n].
            unloadable: Those of this process's share that could not be.

        Raises:
            ValueError: Some cannot be loaded and `on_bad_sample` is not skip, or most of the pool cannot. It names
                them, in every process.
        """
        found = dict(gather_object(sorted(unloadable.items())))
        if self.on_bad_sample != "skip":
            refuse(dataset, found, 'Mend or remove it, or set on_bad_sample="skip"')
        before = self.failed[place]
        # What failed for a while, in another loop, and could be loaded this time is back.
        again = set(asked[torch.isin(asked, torch.tensor(list(before), dtype=torch.long))].tolist())
        kept = {index: reason for index, reason in before.items() if index not in again}
        self.failed[place] = kept | {index: bad.reason for index, bad in found.items()}
        if 2 * len(self.skipped) > len(self.tried):
            refuse(dataset, found, f"That is most of the {len(self.tried)} samples: is their storage there?")
        new = {index: reason for index, reason in self.failed[place].items() if index not in before}
        if new and self.accelerator.is_main_process:
            logger.warning("%d samples cannot be loaded and are skipped: %s", len(new), explained(dataset, new))


def refuse(dataset: Any, found: Mapping[int, Unloadable], advice: str) -> None:
    """Raise a ValueError that names samples, files and reasons; its cause holds the traceback of the first."""
    if not found:
        return
    reasons = explained(dataset, {index: bad.reason for index, bad in found.items()})
    trace = next(filter(None, (found[index].trace for index in sorted(found))), "")
    raise ValueError(f"cannot load {reasons}. {advice}") from RuntimeError(f"\n{trace}")


def explained(dataset: Any, reasons: Mapping[int, str]) -> str:
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
