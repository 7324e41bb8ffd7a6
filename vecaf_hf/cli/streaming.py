"""A recipe's training split as a stream of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import ClassLabel, load_dataset, load_dataset_builder

from vecaf_hf.cli.local_models import naming
from vecaf_hf.cli.options import RecipeArguments
from vecaf_hf.data.columns import label_among
from vecaf_hf.data.sharded import STREAMS, ShardedDataset
from vecaf_hf.printable import listed
from vecaf_hf.validation import check_choice


def stream_splits(recipe: RecipeArguments, label_column: str | None, output_dir: Any) -> tuple[dict[str, Any], str]:
    """The splits of a dataset whose `train` is streamed, and the name of the label column.

    Raises:
        ValueError: The recipe holds a part of it out or cuts it, or its labels are no ClassLabel.
    """
    _check(recipe)
    builder: Any
    with naming("dataset", recipe.dataset_name):
        builder = load_dataset_builder(recipe.dataset_name, recipe.dataset_config_name)
    files = builder.config.data_files
    for split in (recipe.train_split, recipe.validation_split, recipe.test_split):
        if split is not None:
            check_choice(f"a split of {recipe.dataset_name}", split, {str(name): None for name in files})
    stream = builder.as_streaming_dataset(split=recipe.train_split)
    label = label_among(stream.features or {}, label_column)
    if label is None or not isinstance(stream.features[label], ClassLabel):
        raise ValueError(
            f"streaming needs a column of labels that is a ClassLabel, and the columns are "
            f"{listed(f'{name} ({type(feature).__name__})' for name, feature in (stream.features or {}).items())}: "
            "cast it when the shards are written, or set label_column"
        )
    folder = Path(str(output_dir)) / STREAMS
    splits: dict[str, Any] = {"train": ShardedDataset(stream, folder, label_column=label)}
    for name, split in (("validation", recipe.validation_split), ("test", recipe.test_split)):
        if split is not None:
            splits[name] = load_dataset(recipe.dataset_name, recipe.dataset_config_name, split=split)
    return splits, label


def _check(recipe: RecipeArguments) -> None:
    held_out = {"validation": recipe.validation_fraction, "test": recipe.test_fraction}
    for name, fraction in held_out.items():
        if fraction > 0 and getattr(recipe, f"{name}_split") is None:
            raise ValueError(
                f"streaming=True, and nothing can be held out of a stream: name a {name}_split, or set "
                f"{name}_fraction to 0"
            )
    for name in ("max_train_samples", "shuffle_captions"):
        if getattr(recipe, name):
            raise ValueError(f"{name} does not go with streaming=True")
