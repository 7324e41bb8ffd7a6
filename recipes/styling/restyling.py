"""All images of a dataset through a style network, once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from datasets.fingerprint import Hasher
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from pools.remaking import source_images
from safetensors.torch import save

from styling.network import StyleNetwork
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.stored_images import LoadImage

RestyleBatch = Callable[[Any, list[int]], dict[str, list[Any]]]


def restyled(
    dataset: Any,
    image_column: str,
    network: StyleNetwork,
    meter: CostMeter | None = None,
    batch_size: int = 32,
    disable_tqdm: bool = False,
    load_from_cache_file: bool = True,
) -> datasets.Dataset:
    """The dataset with its images restyled, each in its own size; everything else stays, labels and captions too.

    Of a dataset that lies on disk the result is kept beside it, by `Dataset.map`: the next call with the same images
    and weights reads it, and counts no work.

    Args:
        dataset: A `datasets.Dataset`, whatever transform it has, which it keeps.
        image_column: Where the images are.
        network: Runs where its weights are.
        meter: Counts the work, as auxiliary.
        batch_size: Images in memory at a time.
        disable_tqdm: Whether to hide the progress bar.
        load_from_cache_file: As `Dataset.map` has it: without, all images are restyled anew, and counted.

    Raises:
        ValueError: The dataset has no such column of images, or an image cannot be read.
    """
    restyle = _restyling(source_images(dataset, image_column, "restyled"), image_column, network, meter or CostMeter())
    with _progress_bars(hidden=disable_tqdm):
        made = dataset.with_format(None).map(
            restyle,
            with_indices=True,
            batched=True,
            batch_size=batch_size,
            features=dataset.features,
            load_from_cache_file=load_from_cache_file,
            # What the meter has counted must not tell results apart.
            new_fingerprint=_fingerprint(dataset, image_column, network),
            desc="Restyling images",
        )
    form = dict(dataset.format)
    return made.with_format(**form.pop("format_kwargs"), **form)


def _restyling(load: LoadImage, column: str, network: StyleNetwork, meter: CostMeter) -> RestyleBatch:
    """What `Dataset.map` calls: a batch and its positions in, the column restyled out; counted."""

    def restyle(batch: Any, positions: list[int]) -> dict[str, list[Any]]:
        images = [load(position) for position in positions]
        with meter.measured("auxiliary"):
            made = network.restyle(images)
        meter.add("auxiliary", len(images))
        return {column: made}

    return restyle


def _fingerprint(dataset: datasets.Dataset, column: str, network: StyleNetwork) -> str:
    weights = hashlib.sha256(save({name: tensor.cpu() for name, tensor in network.state_dict().items()}))
    return Hasher.hash([dataset._fingerprint, column, network.options.image_size, weights.hexdigest()])


@contextmanager
def _progress_bars(hidden: bool) -> Iterator[None]:
    """Whether `datasets` shows them inside the block; where they are off already they stay so."""
    changed = hidden and not are_progress_bars_disabled()
    if changed:
        disable_progress_bars()
    try:
        yield
    finally:
        if changed:
            enable_progress_bars()
