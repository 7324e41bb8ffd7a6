"""Captions of a dataset's images: written into it as a column, or made in a run for as many samples as it needs."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from vecaf_hf.cost import CostMeter
from vecaf_hf.data.stored_images import LoadImage, raw_images
from vecaf_hf.printable import listed, printable
from vecaf_hf.text.captioner import Captioner

logger = logging.getLogger(__name__)

# Unreadable images that a warning lists.
LISTED = 5
# Samples that a process captions before it waits for the others, who would not wait for ever.
SHARED_AT_ONCE = 4096


def caption_dataset(
    dataset: datasets.Dataset,
    captioner: str | Captioner,
    image_column: str = "image",
    column: str = "caption",
    disable_tqdm: bool = False,
    **options: Any,
) -> datasets.Dataset:
    """The dataset with a caption of each image; None where the image cannot be read or the captioner said nothing.

    What is killed goes on from the captioner's cache.

    Args:
        dataset: Whatever transform it has, which it keeps.
        captioner: A Hub id, a folder, or a `Captioner`.
        image_column: Where the images are.
        column: The new column's name.
        disable_tqdm: Whether to hide the progress bar.
        **options: Of `Captioner`, where it is given by name: `batch_size`, `prompt`, `dtype`, ...

    Raises:
        ValueError: The dataset is no `datasets.Dataset` with such a column of images, or has a column of the new name;
            or what `Captioner` says.
        TypeError: Options beside a `Captioner`, or that it does not have.
    """
    load = raw_images(dataset, image_column, "caption_dataset", "name the column of images")
    if column in dataset.column_names:
        raise ValueError(f"the dataset has a column {column!r} already: choose another name, or remove it")
    if isinstance(captioner, Captioner) and options:
        raise TypeError(f"{listed(options)}: these are options of a captioner by name; set them on the Captioner")
    made = captioner if isinstance(captioner, Captioner) else Captioner(captioner, **options)
    with tqdm(total=len(dataset), desc="Captioning", unit="image", disable=disable_tqdm) as progress:
        captions, unreadable = captions_of(made, load, range(len(dataset)), progress.update)
    made.release()
    warn_of_unreadable(unreadable)
    # As Arrow tables, of which no image is decoded and which no transform sees.
    captioned = dataset.with_format("arrow").add_column(column, captions, feature=datasets.Value("string"))
    form, kept = dataset.format, {**dataset.format["format_kwargs"]}
    shown = None if form["columns"] == dataset.column_names else form["columns"]
    return captioned.with_format(form["type"], shown, form["output_all_columns"], **kept)


def captions_of(
    captioner: Captioner, load: LoadImage, positions: Sequence[int], done: Callable[[int], object]
) -> tuple[list[str | None], dict[int, str]]:
    """A caption for each of these positions, None without one; and why images could not be read, by position."""
    unreadable: dict[int, str] = {}

    def images() -> Iterator[Image.Image]:
        for position in positions:
            try:
                image = load(position)
            except Exception as error:  # Of any type: a decoder's, the file system's.
                unreadable[position] = f"{type(error).__name__}: {error}"
                done(1)
                continue
            yield image

    made = iter(captioner.caption(images(), done))
    return [None if position in unreadable else next(made) for position in positions], unreadable


def warn_of_unreadable(unreadable: dict[int, str]) -> None:
    """One warning for all of them, if there are any."""
    if unreadable:
        first = min(unreadable)
        logger.warning(
            "%d images cannot be read and have no caption: samples %s (sample %d: %s)",
            len(unreadable),
            listed(sorted(unreadable), LISTED),
            first,
            printable(" ".join(unreadable[first].split())),
        )


class PoolCaptions:
    """The captions that a run has made of its pool, in rounds: the whole pool at once, or at each loop boundary the
    samples that were selected for the first time.

    A checkpoint has them all: a resumed run makes none of them again, whatever became of the cache.

    Args:
        captioner: Makes them.
        load: Image of a position.

    Attributes:
        rounds: Positions [n], rising, with their captions.
    """

    def __init__(self, captioner: Captioner, load: LoadImage) -> None:
        self.captioner, self.load = captioner, load
        self.rounds: list[tuple[Tensor, list[str | None]]] = []
        # Of earlier runs too: a search over hyperparameters captions its pool once.
        self._known: dict[int, str | None] = {}

    def begin(self) -> None:
        """Begin a run."""
        self.rounds = []

    @property
    def missing(self) -> int:
        """Samples that have no caption although one was asked for."""
        return sum(caption is None for _, captions in self.rounds for caption in captions)

    def add(self, indices: Tensor, accelerator: Accelerator, meter: CostMeter, hidden: bool) -> None:
        """A round of those of these samples that no round has; each process captions a share. LongTensor [n].

        Args:
            indices: The same in all processes.
            accelerator: Its device is used unless the captioner has one.
            meter: Counts the work of all processes.
            hidden: Whether to hide the progress bar.

        Raises:
            ValueError: No sample of any round has a caption.
            RuntimeError: Another process failed.
        """
        done = torch.cat([indices[:0], *(positions for positions, _ in self.rounds)])
        indices = indices[~torch.isin(indices, done)].sort().values
        if not len(indices):
            return
        new = torch.tensor([index for index in indices.tolist() if index not in self._known], dtype=torch.long)
        if len(new):
            self._make(new, accelerator, meter, hidden)
        self._take(indices, [self._known[index] for index in indices.tolist()])

    def state_dict(self) -> dict[str, Tensor]:
        """The rounds, as compressed text. uint8 tensors."""
        return {f"captions.{number}": _packed(*entry) for number, entry in enumerate(self.rounds)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.rounds = []
        while (packed := state.get(f"captions.{len(self.rounds)}")) is not None:
            self._take(*_unpacked(packed))

    def _take(self, indices: Tensor, captions: list[str | None]) -> None:
        self._known.update(zip(indices.tolist(), captions, strict=True))
        self.rounds.append((indices, captions))
        asked = sum(len(positions) for positions, _ in self.rounds)
        if self.missing == asked:
            raise ValueError(
                f"captioner {self.captioner.name_or_path!r} has no caption for any of {asked} images: they cannot be "
                "read, or it says nothing of them. Mend the images, choose another captioner, or leave CEA out"
            )

    def _make(self, indices: Tensor, accelerator: Accelerator, meter: CostMeter, hidden: bool) -> None:
        self.captioner.device = self.captioner.device or accelerator.device
        world, unreadable = accelerator.num_processes, dict[int, str]()
        share = -(-len(indices) // world)
        with tqdm(total=share, desc="Captioning", unit="image", disable=hidden, leave=False) as progress:
            for part in indices.split(SHARED_AT_ONCE * world):
                unreadable |= self._share(part, accelerator, meter, progress.update)
        self.captioner.release()
        if accelerator.is_main_process:
            warn_of_unreadable(unreadable)

    def _share(
        self, indices: Tensor, accelerator: Accelerator, meter: CostMeter, done: Callable[[int], object]
    ) -> dict[int, str]:
        """Caption this process's share of these samples, and learn the others'; returns what could not be read."""
        mine = indices[accelerator.process_index :: accelerator.num_processes].tolist()
        forwards, flops = self.captioner.forwards, meter.work["caption"].flops
        outcome: tuple[dict[int, str | None], dict[int, str], int, float] | None = None
        failure: Exception | None = None
        try:
            with meter.measured("caption"):
                captions, unreadable = captions_of(self.captioner, self.load, mine, done)
            spent = meter.work["caption"].flops - flops
            outcome = dict(zip(mine, captions, strict=True)), unreadable, self.captioner.forwards - forwards, spent
        except Exception as error:
            # Not at once: the others would wait for this process.
            failure = error
        outcomes = gather_object([outcome])
        if failure is not None:
            raise failure
        all_unreadable: dict[int, str] = {}
        for rank, other in enumerate(outcomes):
            if other is None:
                raise RuntimeError(f"captioning failed in process {rank}, and its message says why")
            found, failed, ran, counted = other
            self._known |= found
            all_unreadable |= failed
            # `measured` has counted this process's own.
            meter.add("caption", ran, 0.0 if rank == accelerator.process_index else counted)
        return all_unreadable


def _packed(indices: Tensor, captions: list[str | None]) -> Tensor:
    text = json.dumps([indices.tolist(), captions])
    return torch.frombuffer(bytearray(zlib.compress(text.encode())), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> tuple[Tensor, list[str | None]]:
    indices, captions = json.loads(zlib.decompress(packed.numpy().tobytes()))
    return torch.tensor(indices, dtype=torch.long), captions
