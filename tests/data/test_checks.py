"""What a batch must hold to be trained on."""

import pytest
import torch
from every_case import every_case

from vecaf_hf.data.checks import check_labels, check_values
from vecaf_hf.data.indexed import POOL_INDEX


def batch(**changes):
    whole = {"pixel_values": torch.ones(4, 3, 2, 2), "labels": torch.tensor([0, 2, 1, 0]), "name": ["a"] * 4}
    return {POOL_INDEX: torch.tensor([5, 7, 3, 9]), **whole, **changes}


def check(found, num_classes=3, columns=("image", "class")):
    check_labels(found, "labels", num_classes, columns)


@every_case("labels", [torch.tensor([0, 2, 1, 0]), torch.eye(4), torch.tensor([0, -1, 1, 2])])
def test_a_sound_batch(labels):
    check(batch(labels=labels), num_classes=None)


def test_no_labels_and_what_there_is():
    for found in (batch(labels=None), {name: values for name, values in batch().items() if name != "labels"}):
        with pytest.raises(
            ValueError, match=r"no 'labels' \(they have pixel_values.*columns are image, class.*labels; rename"
        ):
            check(found)
    with pytest.raises(ValueError, match=r"no 'labels' \(they have pixel_values, labels, name\): "):
        check(batch(labels=None), columns=())


@every_case("label", [3, -1, -99])
def test_a_label_that_is_no_class(label):
    labels = torch.tensor([0, label, 1, label])
    with pytest.raises(ValueError, match=f"label of sample 7 is {label}, and the model has 3 classes .0 to 2; 2 such"):
        check(batch(labels=labels))


def test_labels_with_a_gap():
    with pytest.raises(ValueError, match=r"label of sample 3 is nan .*classes are whole numbers, 0 to 2"):
        check(batch(labels=torch.tensor([0.0, 1.0, torch.nan, 1.0])))


def test_an_input_that_is_nan():
    check_values(batch(), "labels")
    pixels = torch.ones(4, 3, 2, 2)
    pixels[2, 1, 0, 1] = torch.nan
    with pytest.raises(ValueError, match=r"pixel_values of sample 3 is NaN .1 such"):
        check_values(batch(pixel_values=pixels), "labels")


def test_masks_may_be_infinite_and_labels_have_gaps():
    mask = torch.tensor([[0.0, -torch.inf], [torch.inf, 0.0], [0.0, 0.0], [0.0, 0.0]])
    check_values(batch(mask=mask, labels=torch.full((4, 2), torch.nan)), "labels")
    # Of another length: not one row per sample.
    check_values(batch(grid=torch.full((2,), torch.nan)), "labels")
