"""What a run's model is tested on beside its test split: a condition that training has seen little or nothing of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from options import PoolArguments
from pools.conditions import check_can_be_made, check_condition, under_condition
from pools.corruptions import check_corruption
from pools.imagenet_c import IMAGE, LABEL, find_folder, load_imagenet_c

from vecaf_hf.cli.building import image_transforms, with_images
from vecaf_hf.cli.options import RecipeArguments
from vecaf_hf.data.columns import check_column, read_column
from vecaf_hf.printable import listed
from vecaf_hf.reporting.local_paths import is_local_path
from vecaf_hf.selection.candidates import evenly_spaced
from vecaf_hf.validation import whole


@dataclass(frozen=True)
class Target:
    """A split's images brought under a condition, those that the split has under it, or ImageNet-C's own.

    Args:
        corruption: One of `pools.conditions.CONDITIONS`; ImageNet-C has the corruptions among them. With a `column`,
            the value that the samples have there.
        severity: 1 to 5, of a corruption.
        seed: Of the corruption of the split's images.
        dataset_name: ImageNet-C, a folder or a Hub id; None for the test split.
        dataset_config_name: On the Hub, the configuration that holds this corruption at this severity, where it is
            divided into such and not into folders.
        column: The split's column that tells each sample's condition, texts or a ClassLabel; None where images are
            brought under it.

    Raises:
        ValueError: The corruption or the severity is none, there is a configuration of no dataset, or a column of
            ImageNet-C.
    """

    corruption: str
    severity: int = 3
    seed: int = 0
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        if self.column is not None:
            if self.dataset_name is not None:
                both = f"column is {self.column!r}, and dataset_name {self.dataset_name!r}"
                raise ValueError(f"{both}: ImageNet-C has no such column, so leave one of the two out")
        elif self.dataset_name is None:
            check_condition(self.corruption, self.severity, "corruption")
        else:
            check_corruption(self.corruption, self.severity)
        whole("seed", self.seed, 0)
        if self.dataset_config_name is not None and self.dataset_name is None:
            raise ValueError(
                f"dataset_config_name is {self.dataset_config_name!r}, and there is no dataset_name: give the Hub id "
                "of ImageNet-C, or leave it out"
            )

    def check(self) -> None:
        """Raise unless what the images are made of, or lie in, is on this machine; what is on the Hub is not asked for.

        Raises:
            ValueError: The folder is not there, or not ImageNet-C's.
            ImportError: The package of the corruptions is not there.
        """
        if self.column is not None:
            return
        if self.dataset_name is None:
            check_can_be_made(self.corruption)
        elif is_local_path(self.dataset_name):
            find_folder(Path(self.dataset_name), self.corruption, self.severity)

    def of(
        self,
        split: Dataset,
        image: str,
        label: str,
        recipe: RecipeArguments,
        processor: Any,
        most: int | None = None,
    ) -> Dataset:
        """What the model takes of this condition.

        Args:
            split: The test split, or the validation split; a transform of it is left out.
            image: Its column of images.
            label: Its column of labels, a ClassLabel.
            recipe: Tells how images are transformed. ImageNet-C's own are not cropped: they are crops already.
            processor: The model's.
            most: Images of it, of each class as large a part; all if None.

        Raises:
            ValueError: The split has no such column, or no sample of this condition.
        """
        if self.column is not None:
            found = stratified(samples_of(split.with_format(None), self.column, self.corruption), label, most)
        elif self.dataset_name is None:
            some = stratified(split.with_format(None), label, most)
            found = under_condition(some, image, self.corruption, self.severity, self.seed)
        else:
            classes = split.features[label]
            assert isinstance(classes, ClassLabel)
            of = (self.corruption, self.severity, classes.names, self.dataset_config_name)
            found = load_imagenet_c(self.dataset_name, *of)
            found = stratified(found.rename_columns({IMAGE: image, LABEL: label}), label, most)
            recipe = replace(recipe, crop_scale=1.0)
        _, transform = image_transforms(recipe, processor)
        return with_images(found, transform, image, label)


def samples_of(dataset: Dataset, column: str, value: str) -> Dataset:
    """The samples whose column says so."""
    check_column(dataset, column)
    said, kind = read_column(dataset, column), dataset.features[column]
    if isinstance(kind, ClassLabel):
        said = [kind.int2str(one) for one in said]
    if not (rows := [row for row, one in enumerate(said) if one == value]):
        there = listed(sorted(map(repr, set(said))), 5)
        raise ValueError(f"no sample of the split has {value!r} in its column {column!r}: it has {there}")
    return dataset.select(rows)


def stratified(dataset: Dataset, label: str, most: int | None) -> Dataset:
    """At most so many samples, the same ones at each call, of each class as large a part; in their order."""
    if most is None or most >= len(dataset):
        return dataset
    by_class = np.argsort(read_column(dataset, label), kind="stable")
    return dataset.select(np.sort(by_class[evenly_spaced(len(dataset), most).numpy()]))


def conditions_of(recipe: PoolArguments) -> dict[str, Target]:
    """What the pool hides, by name; none of a pool that hides nothing."""
    if recipe.pool != "hidden":
        return {}
    options = recipe.hidden_options()
    return {name: Target(name, options.severity) for name in options.conditions}


def mean_and_worst(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Of the accuracies under several conditions; nothing of none."""
    values = list(accuracies.values())
    return {"mean": float(np.mean(values)), "worst": min(values)} if values else {}


def evaluate_under_conditions(trainer: Any, test: Dataset, recipe: PoolArguments, image: str) -> dict[str, float]:
    """The trainer's metrics on the test split under each condition that its pool hides, and the accuracies' mean and
    worst, which are logged: so they come into the model card.

    Args:
        trainer: Of the recipe.
        test: The test split.
        recipe: Names the pool.
        image: The split's column of images.
    """
    metrics: dict[str, float] = {}
    accuracies = {}
    for name, target in conditions_of(recipe).items():
        most = recipe.hidden_options().tested
        seen = target.of(test, image, trainer.args.label_column, recipe, trainer.processing_class, most)
        found = trainer.evaluate(seen, metric_key_prefix=f"test_{name}")
        accuracies[name] = found[f"test_{name}_accuracy"]
        metrics |= found
    both = {f"test_conditions_{name}_accuracy": value for name, value in mean_and_worst(accuracies).items()}
    if both:
        trainer.log(dict(both))
    return metrics | both
