"""The samples of a selection in one file, by position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# A column that tells which samples they are.
POSITION = "vecaf_position"


class KeptSamples:
    """Arrow rows with their positions, rising; as they are now, when another process has replaced the file too.

    Args:
        file: Perhaps not there yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._version: tuple[int, int] | None = None
        self._held: tuple[NDArray[np.int64], datasets.Dataset | None] = (np.empty(0, dtype=np.int64), None)

    def __getstate__(self) -> dict[str, Any]:
        return KeptSamples(self.file).__dict__

    @property
    def held(self) -> tuple[NDArray[np.int64], datasets.Dataset | None]:
        """Positions and rows, of one and the same version; without rows where there is no file."""
        try:
            found = self.file.stat()
            version = (found.st_ino, found.st_mtime_ns)
            if version != self._version:
                rows = datasets.Dataset.from_file(str(self.file))
                positions = rows.with_format("numpy")[POSITION][:] if len(rows) else np.empty(0, dtype=np.int64)
                self._held, self._version = (positions, rows.remove_columns(POSITION)), version
        except FileNotFoundError:
            self.release()
        return self._held

    def release(self) -> None:
        """Hold no file: one that was removed takes up the disk for as long as it is mapped."""
        self._held, self._version = (np.empty(0, dtype=np.int64), None), None


@contextmanager
def arrow_writer(path: Path, schema: pa.Schema) -> Iterator[Any]:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        yield writer


def with_position(schema: pa.Schema) -> pa.Schema:
    """The schema of kept rows."""
    features = datasets.Features({**datasets.Features.from_arrow_schema(schema), POSITION: datasets.Value("int64")})
    return schema.append(pa.field(POSITION, pa.int64())).with_metadata(features.arrow_schema.metadata)


def placed(rows: pa.Table, positions: NDArray[np.int64]) -> pa.Table:
    """The rows with these positions."""
    return rows.append_column(POSITION, pa.array(positions)).cast(with_position(rows.schema))
