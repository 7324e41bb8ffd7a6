"""Training the style network of one prompt on the source's images."""

from __future__ import annotations

from typing import Any

import torch
from pools.remaking import source_images
from torch import Tensor
from torchvision.transforms import v2
from tqdm.auto import tqdm

from styling.losses import content_loss, directional_losses, patch_loss, total_variation
from styling.network import StyleNetwork, enlarged_to, to_tensor
from styling.options import StyleOptions
from styling.towers import ContentNetwork, ImageTower, text_direction
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.stored_images import LoadImage
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.text.encoder import default_device

# How far a view's corners may move, as a part of half the side; what lies outside the image is black.
DISTORTION = 0.5


def train_style(
    dataset: Any,
    image_column: str,
    options: StyleOptions,
    meter: CostMeter | None = None,
    device: torch.device | str | None = None,
    disable_tqdm: bool = False,
) -> StyleNetwork:
    """A network that restyles the dataset's images as the prompt says; on a CPU the same, bit for bit, whenever the
    images and options are.

    Args:
        dataset: A `datasets.Dataset`, whatever transform it has; nothing but its images is read.
        image_column: Where they are.
        options: The style and its training.
        meter: Counts the work, as auxiliary; that of the text encoder, as text.
        device: Where to train; by default the accelerator if there is one. The network stays there.
        disable_tqdm: Whether to hide the progress bar.

    Raises:
        ValueError: The dataset has no such column of images or none in it, or an encoder does not fit or cannot be
            loaded.
        FloatingPointError: The loss is not finite any more.
    """
    load = source_images(dataset, image_column, "train_style")
    if not len(dataset):
        raise ValueError("train_style learns from the dataset's images, and it is empty")
    meter, device = meter or CostMeter(), device or default_device()
    lesson = _Lesson(options, text_direction(options, meter, device))
    with seeded(seed_of(options.seed)), meter.timed("auxiliary"):
        network = StyleNetwork(options).to(device).train()
        crops = (_crops(load, len(dataset), options).to(device) for _ in range(options.steps))
        steps = tqdm(crops, "Training the style", options.steps, disable=disable_tqdm, leave=False)
        flops = lesson.teach(network, steps)
    meter.add("auxiliary", options.steps * options.batch_size, flops)
    return network.eval()


class _Lesson:
    """What a batch of crops teaches.

    Args:
        options: The style and its training.
        direction: Delta T. [d].
    """

    def __init__(self, options: StyleOptions, direction: Tensor) -> None:
        self.options, self.direction = options, direction
        self.images = ImageTower(options.clip).to(direction.device)
        self.content = ContentNetwork(options.content_model, options.content_layers).to(direction.device)
        # Without a colour to fill with, which torchvision puts in place, where no gradient passes.
        self.perspective = v2.RandomPerspective(DISTORTION, p=1.0, fill=None)

    def teach(self, network: StyleNetwork, steps: tqdm[Tensor]) -> float:
        """A step of Adam for each batch of crops [n, 3, s, s]; returns the FLOPs of all."""
        optimizer = torch.optim.Adam(network.parameters(), lr=self.options.learning_rate)
        # Of its own: a step that is measured runs other kernels, and must be the first whatever the run's has seen.
        meter = CostMeter()
        for step, crops in enumerate(steps):
            with meter.forward("auxiliary", len(crops)):
                losses = self.losses(network, crops)
                loss = torch.stack([*losses.values()]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if not bool(loss.isfinite()):
                raise FloatingPointError(
                    f"the style network's loss is {loss.item()} in step {step}: lower learning_rate"
                )
            steps.set_postfix({name: f"{value.item():.3g}" for name, value in losses.items()}, refresh=False)
        return meter.work["auxiliary"].flops

    def losses(self, network: StyleNetwork, crops: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, weighted; crops [n, 3, s, s]."""
        options, restyled = self.options, network(crops)
        with torch.no_grad():
            sources, content = self.images(crops), self.content(crops)
        # One perspective for the whole batch in each view.
        views = torch.cat([self.perspective(restyled) for _ in range(options.views)])
        of_views = sources.repeat(options.views, 1)
        direction = directional_losses(self.images(restyled), sources, self.direction).mean()
        patches = patch_loss(self.images(views), of_views, self.direction, options.threshold)
        return {
            "direction": options.direction_weight * direction,
            "patches": options.patch_weight * patches,
            "content": options.content_weight * content_loss(self.content(restyled), content),
            "variation": options.variation_weight * total_variation(restyled),
        }


def _crops(load: LoadImage, size: int, options: StyleOptions) -> Tensor:
    """A random square of each of some random images, by torch's global generator. [n, 3, s, s]."""
    crop = v2.RandomCrop(options.image_size)
    chosen = torch.randint(size, (options.batch_size,)).tolist()
    return torch.stack([crop(enlarged_to(to_tensor(load(index)), options.image_size)) for index in chosen])
