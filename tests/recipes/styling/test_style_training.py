"""What a style network learns, and what its training says and counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from styling import StyleNetwork, StyleOptions, train_style
from styling.losses import directional_losses
from styling.network import enlarged_to, to_tensor
from styling.towers import ImageTower, text_direction
from torchvision.transforms import v2

from vecaf_hf.cost import CostMeter
from vecaf_hf.seeding import seed_of, seeded

Options = Callable[..., StyleOptions]

# At a larger rate so few steps are chaotic, and what they reach is a matter of the last bits.
STEADY = {"steps": 40, "learning_rate": 1e-3, "threshold": 0, "content_weight": 0, "variation_weight": 0}


def trained(pictures: Dataset, options: StyleOptions, **given: Any) -> StyleNetwork:
    return train_style(pictures, "image", options, **{"device": "cpu", "disable_tqdm": True, **given})


def start_of(options: StyleOptions) -> StyleNetwork:
    """What its training begins with."""
    with seeded(seed_of(options.seed)):
        return StyleNetwork(options)


def direction_loss(
    network: StyleNetwork, pictures: Dataset, view: Callable[[Any], Any] = lambda image: image, views: int = 1
) -> float:
    """The mean directional loss of all pictures, enlarged to the size of the crops, in so many views of each."""
    options = network.options
    tower, direction = ImageTower(options.clip), text_direction(options, CostMeter(), "cpu")
    losses = []
    with torch.no_grad(), seeded(7):
        for picture in pictures["image"]:
            image = enlarged_to(to_tensor(picture)[None], options.image_size)
            restyled, source = network(image), tower(image)
            losses += [directional_losses(tower(view(restyled)), source, direction) for _ in range(views)]
    return torch.cat(losses).mean().item()


def test_training_lowers_the_directional_loss(pictures: Dataset, options: Options) -> None:
    given = options(**STEADY, patch_weight=0)
    assert direction_loss(trained(pictures, given), pictures) < direction_loss(start_of(given), pictures) - 0.1


def test_training_lowers_the_patch_loss(pictures: Dataset, options: Options) -> None:
    given, view = options(**STEADY, direction_weight=0), v2.RandomPerspective(0.5, p=1)
    before = direction_loss(start_of(given), pictures, view, views=8)
    assert direction_loss(trained(pictures, given), pictures, view, views=8) < before - 0.1


def test_views_that_are_near_enough_teach_nothing(pictures: Dataset, options: Options) -> None:
    alone = {"direction_weight": 0, "content_weight": 0, "variation_weight": 0}
    given = options(threshold=2, **alone)
    network, start = trained(pictures, given), start_of(given)
    assert torch.equal(network.unet.last[-1].weight, start.unet.last[-1].weight)
    network = trained(pictures, options(threshold=0, **alone))
    assert not torch.equal(network.unet.last[-1].weight, start.unet.last[-1].weight)


def test_content_weight_holds_the_pictures(pictures: Dataset, options: Options) -> None:
    def change(content_weight: float) -> float:
        network = trained(pictures, options(steps=10, learning_rate=1e-2, content_weight=content_weight))
        image = to_tensor(pictures[1]["image"])[None]
        return (network(image) - image).abs().mean().item()

    # The features of a network that was never trained are tiny.
    assert change(1e12) < change(0) / 2


def test_the_same_seed_gives_the_same_network(pictures: Dataset, options: Options) -> None:
    meter = CostMeter()
    first = trained(pictures, options(), meter=meter)
    torch.manual_seed(99)
    # Whatever the meter and the generators have seen before.
    again, other = trained(pictures, options(), meter=meter), trained(pictures, options(seed=1))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(first.unet.last[-1].weight, other.unet.last[-1].weight)


def test_global_generators_are_left_alone(pictures: Dataset, options: Options) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    trained(pictures, options())
    assert torch.equal(torch.rand(3), wanted)


def test_a_transform_is_not_in_the_way(pictures: Dataset, options: Options) -> None:
    def fail(batch: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("the transform was called")

    plain, transformed = trained(pictures, options()), trained(pictures.with_transform(fail), options())
    assert torch.equal(plain.unet.last[-1].weight, transformed.unet.last[-1].weight)


def test_work_is_counted_as_auxiliary(pictures: Dataset, options: Options) -> None:
    few, many = CostMeter(), CostMeter()
    trained(pictures, options(steps=2), meter=few)
    trained(pictures, options(steps=6), meter=many)
    assert few.work["auxiliary"].samples == 2 * 4
    assert many.work["auxiliary"].samples == 6 * 4
    assert many.work["auxiliary"].flops == pytest.approx(3 * few.work["auxiliary"].flops)
    assert few.work["auxiliary"].seconds > 0
    assert few.work["train"].flops == 0
    assert not few.forward_flops, "they stand for the model's own passes"


def test_more_views_cost_more(pictures: Dataset, options: Options) -> None:
    few, many = CostMeter(), CostMeter()
    trained(pictures, options(views=1), meter=few)
    trained(pictures, options(views=6), meter=many)
    assert many.work["auxiliary"].flops > few.work["auxiliary"].flops


@pytest.mark.parametrize("hidden", [False, True])
def test_progress_bar(pictures: Dataset, options: Options, hidden: bool, capsys: pytest.CaptureFixture[str]) -> None:
    trained(pictures, options(), disable_tqdm=hidden)
    assert ("Training the style" in capsys.readouterr().err) is not hidden


def test_no_such_column(pictures: Dataset, options: Options) -> None:
    with pytest.raises(ValueError, match=r"column 'picture' .* is not there \(columns: image, label, caption\)"):
        train_style(pictures, "picture", options())
    with pytest.raises(ValueError, match=r"column 'label' .* holds ClassLabel"):
        train_style(pictures, "label", options())
    with pytest.raises(ValueError, match="the dataset is a list"):
        train_style([1, 2], "image", options())


def test_an_empty_dataset(pictures: Dataset, options: Options) -> None:
    with pytest.raises(ValueError, match="it is empty"):
        train_style(pictures.select([]), "image", options())


def test_a_loss_that_is_not_finite_ends_training(pictures: Dataset, options: Options) -> None:
    with pytest.raises(FloatingPointError, match=r"in step \d+: lower learning_rate"):
        trained(pictures, options(learning_rate=1e30, steps=10))
