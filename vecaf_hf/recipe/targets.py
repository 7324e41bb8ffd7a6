"""What a run's model is tested on beside its test split: another domain, which training has not seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset

from vecaf_hf.data.corruptions import check_corruption, corrupted, package_version
from vecaf_hf.data.imagenet_c import IMAGE, LABEL, find_folder, load_imagenet_c
from vecaf_hf.local_paths import is_local_path
from vecaf_hf.recipe.building import image_transforms, with_images
from vecaf_hf.recipe.options import RecipeArguments
from vecaf_hf.validation import whole


@dataclass(frozen=True)
class Target:
    """The test split's images under a corruption, or ImageNet-C's own.

    Args:
        corruption: One of `vecaf_hf.data.corruptions.CORRUPTIONS`.
        severity: 1 to 5.
        seed: Of the corruption of the test split's images.
        dataset_name: ImageNet-C, a folder or a Hub id; None for the test split.
        dataset_config_name: On the Hub, the configuration that holds this corruption at this severity, where it is
            divided into such and not into folders.

    Raises:
        ValueError: The corruption or the severity is none, or there is a configuration of no dataset.
    """

    corruption: str
    severity: int = 3
    seed: int = 0
    dataset_name: str | None = None
    dataset_config_name: str | None = None

    def __post_init__(self) -> None:
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
        if self.dataset_name is None:
            package_version()
        elif is_local_path(self.dataset_name):
            find_folder(Path(self.dataset_name), self.corruption, self.severity)

    def of(self, test: Dataset, image: str, label: str, recipe: RecipeArguments, processor: Any) -> Dataset:
        """What the model takes of this domain.

        Args:
            test: The test split; a transform of it is left out.
            image: Its column of images.
            label: Its column of labels, a ClassLabel.
            recipe: Tells how images are transformed. ImageNet-C's own are not cropped: they are crops already.
            processor: The model's.
        """
        if self.dataset_name is None:
            found = corrupted(test, image, self.corruption, self.severity, self.seed)
        else:
            classes = test.features[label]
            assert isinstance(classes, ClassLabel)
            of = (self.corruption, self.severity, classes.names, self.dataset_config_name)
            found = load_imagenet_c(self.dataset_name, *of)
            found = found.rename_columns({IMAGE: image, LABEL: label})
            recipe = replace(recipe, crop_scale=1.0)
        _, transform = image_transforms(recipe, processor)
        return with_images(found, transform, image, label)
