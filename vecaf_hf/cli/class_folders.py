"""A folder of class folders with metadata files: labels from the folders, captions and all else from the files.

`datasets` 5.2 (packaged_modules/folder_based_builder) drops the labels as soon as there is one metadata file, whatever
`drop_labels` says, then loads no split that has none, and sees none that lies outside of the splits' folders.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
from datasets import Dataset, DatasetDict, Image, load_dataset
from PIL.Image import registered_extensions

from vecaf_hf.data.columns import LABEL_COLUMNS
from vecaf_hf.printable import listed

READERS: dict[str, Any] = {
    "metadata.csv": pandas.read_csv,
    "metadata.jsonl": lambda path: pandas.read_json(path, lines=True),
    "metadata.parquet": pandas.read_parquet,
}
FILE, LABEL = "file_name", "label"
# The names that `datasets` has for splits.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def files_by_split(folder: str) -> dict[str, list[str]] | None:
    """Patterns of the files of class folders, with folders of splits above them or not; None of any other dataset.

    `datasets` 5.2 (data_files.py) looks for the names of splits at every depth and in parts of names: of a class
    `train` or `test_tube`, images of the test would be trained on, or nothing but that class would be loaded.
    """
    tops = _folders(Path(folder)) if os.path.isdir(folder) else []
    if tops and all(top.name in SPLITS and all(map(_holds_images, _folders(top) or [top])) for top in tops):
        # Where images lie in the splits' folders themselves, nothing but these has a split's name.
        splits = {SPLITS[top.name] for top in tops}
        return {split: [f"{top.name}/**" for top in tops if SPLITS[top.name] == split] for split in sorted(splits)}
    return {"train": ["**"]} if tops and all(map(_holds_images, tops)) else None


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "_")))


def _holds_images(folder: Path) -> bool:
    return any(entry.suffix.lower() in registered_extensions() for entry in folder.iterdir())


def load_class_folders(folder: str) -> DatasetDict | None:
    """The splits of such a folder; None of any other dataset, or where a metadata file has the labels.

    Raises:
        ValueError: A metadata file names an image that is not there.
    """
    files = sorted(path for name in READERS for path in Path(folder).rglob(name)) if os.path.isdir(folder) else []
    tables = [_read(path) for path in files]
    if not tables or any(FILE not in table or {*LABEL_COLUMNS} & {*table} for table in tables):
        return None
    # By this name no file is metadata.
    data = load_dataset(
        "imagefolder", data_dir=folder, data_files=files_by_split(folder), metadata_filenames=["(none)"]
    )
    if any(LABEL not in split.features for split in data.values()):
        return None
    if max(len(split.unique(LABEL)) for split in data.values()) < 2:
        # Images lie in the splits' folders themselves.
        return None
    return _with_columns(data, {file: row for table in tables for file, row in _rows(table)}, tables)


def _read(path: Path) -> pandas.DataFrame:
    try:
        table = READERS[path.name](path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if FILE in table:
        # As written, from where the file lies.
        table[FILE] = [os.path.realpath(path.parent / str(name)) for name in table[FILE]]
    return table


def _rows(table: pandas.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """Without what is missing."""
    records = table.to_dict("records")
    return [(row[FILE], {name: value for name, value in row.items() if not _is_missing(value)}) for row in records]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _with_columns(
    data: DatasetDict, rows: dict[str, dict[str, Any]], tables: Sequence[pandas.DataFrame]
) -> DatasetDict:
    stored = {split: samples.cast_column("image", Image(decode=False)) for split, samples in data.items()}
    paths = {
        split: [os.path.realpath(image["path"]) for image in samples["image"]] for split, samples in stored.items()
    }
    if missing := sorted(rows.keys() - {path for some in paths.values() for path in some}):
        raise ValueError(
            f"metadata names {listed(missing, 3)}, which the dataset does not have: mend the {FILE}, which is relative "
            "to the metadata file, or remove the row"
        )
    known = {FILE, *next(iter(data.values())).features}
    columns = dict.fromkeys(name for table in tables for name in table if name not in known)
    for name in columns:
        values = {split: [rows.get(path, {}).get(name) for path in some] for split, some in paths.items()}
        # A split without any value has no type of its own.
        kind = Dataset.from_dict({name: [value for some in values.values() for value in some]}).features[name]
        data = DatasetDict({split: data[split].add_column(name, values[split], feature=kind) for split in data})
    return data
