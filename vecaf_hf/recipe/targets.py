"""What a run's model is tested on beside its test split: another domain, which training has not seen."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import ClassLabel, Dataset

from vecaf_hf.data.corruptions import check_corruption, corrupted
from vecaf_hf.data.imagenet_c import IMAGE, LABEL, load_imagenet_c
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
        ValueError: The corruption or the severity is none.
    """

    corruption: str
    severity: int = 3
    seed: int = 0
    dataset_name: str | None = None
    dataset_config_name: str | None = None

    def __post_init__(self) -> None:
        check_corruption(self.corruption, self.severity)
        whole("seed", self.seed, 0)

    def of(self, test: Dataset, image: str, label: str) -> Dataset:
        """What the model takes of this domain.

        Args:
            test: The test split under its transform.
            image: Its column of images.
            label: Its column of labels, a ClassLabel.
        """
        if self.dataset_name is None:
            found = corrupted(test, image, self.corruption, self.severity, self.seed)
        else:
            classes = test.features[label]
            assert isinstance(classes, ClassLabel)
            of = (self.corruption, self.severity, classes.names, self.dataset_config_name)
            found = load_imagenet_c(self.dataset_name, *of)
            found = found.rename_columns({IMAGE: image, LABEL: label})
        return found.with_transform(test.format["format_kwargs"]["transform"])
