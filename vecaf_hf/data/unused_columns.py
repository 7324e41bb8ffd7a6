"""Columns that the model does not take, and a transform or a collator reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from vecaf_hf.printable import listed
from vecaf_hf.seeding import seeded
from vecaf_hf.selection.candidates import evenly_spaced

logger = logging.getLogger(__name__)

# Samples that a transform is tried on, where the first ones cannot be loaded anyway.
TRIED = 3


class RemovedAfter:
    """A transform of batches, whose result loses the columns that it alone reads."""

    def __init__(self, transform: Callable[[Any], Mapping[str, Any]], columns: frozenset[str]) -> None:
        self.transform, self.columns = transform, columns
        self.one_by_one = getattr(transform, "one_by_one", False)

    def __call__(self, batch: Any) -> dict[str, Any]:
        return {name: values for name, values in self.transform(batch).items() if name not in self.columns}


@dataclass(frozen=True)
class TellingCollator:
    """A collator that says of a column it misses that it was removed."""

    collator: Callable[[list[Any]], Any]
    removed: frozenset[str]

    @classmethod
    def of(cls, collator: Callable[[list[Any]], Any], dataset: datasets.Dataset, rest: datasets.Dataset) -> Any:
        """The collator, which tells of the columns of the dataset that the rest has not, if there are any."""
        removed = frozenset(dataset.column_names) - frozenset(rest.column_names)
        return cls(collator, removed) if removed else collator

    def __call__(self, items: list[Any]) -> Any:
        try:
            return self.collator(items)
        except KeyError as error:
            if error.args[0] not in self.removed:
                raise
            raise ValueError(
                f"it reads {error.args[0]!r}, and the columns {listed(sorted(self.removed))} were removed, since the "
                "model does not take them: set remove_unused_columns=False"
            ) from error


class UnusedColumns:
    """Removes columns that the model does not take; those that a transform reads after it.

    Trainer (transformers 5.23, `_remove_unused_columns`) removes them before: a transform such as `set_transform` has
    from the docs of `datasets` then misses the image, in every sample.
    """

    def __init__(self) -> None:
        # By a dataset's fingerprint: whether its transform reads more than is left. It is tried once.
        self._reads_more: dict[str, bool] = {}

    def removed(
        self, dataset: datasets.Dataset, remove: Callable[[datasets.Dataset], datasets.Dataset]
    ) -> datasets.Dataset:
        """The dataset without these columns.

        Args:
            dataset: Perhaps with a transform.
            remove: Trainer's removal.

        Raises:
            ValueError: There is no transform, and the model takes none of the columns.
        """
        if dataset.format["type"] != "custom":
            return remove(dataset)
        try:
            rest = remove(dataset)
        except ValueError:
            # The model takes no column as it is stored; what the transform makes it may.
            rest = None
        if rest is not None and (rest.column_names == dataset.column_names or not self._reads(dataset, rest)):
            return rest
        columns = frozenset(dataset.column_names) - frozenset(rest.column_names if rest is not None else ())
        logger.info("the transform reads %s: removed after it (remove_unused_columns)", listed(sorted(columns)))
        how = dataset.format
        return dataset.with_transform(
            RemovedAfter(how["format_kwargs"]["transform"], columns), how["columns"], how["output_all_columns"]
        )

    def _reads(self, dataset: datasets.Dataset, rest: datasets.Dataset) -> bool:
        key = dataset._fingerprint
        if key not in self._reads_more:
            self._reads_more[key] = reads_more(dataset, rest)
        return self._reads_more[key]


def reads_more(dataset: datasets.Dataset, rest: datasets.Dataset) -> bool:
    """Whether a dataset's transform fails without the columns that the rest has not, and works with them."""
    for row in evenly_spaced(len(dataset), TRIED).tolist():
        if _loads(rest, row):
            return False
        if _loads(dataset, row):
            return True
    return False


def _loads(dataset: datasets.Dataset, row: int) -> bool:
    with seeded(0):
        try:
            dataset[row]
        except Exception:  # Of any type: the user's transform's.
            return False
    return True
