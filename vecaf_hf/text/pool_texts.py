"""What a text encoder makes of a pool: the embeddings of its captions, as these come, and those of its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.cost import CostMeter
from vecaf_hf.data.stored_images import LoadImage
from vecaf_hf.text.captioning import PoolCaptions
from vecaf_hf.text.captions import Caption, CaptionTable, caption_table, with_captions
from vecaf_hf.text.domains import Domains
from vecaf_hf.text.encoder import TextEncoder


class PoolTexts:
    """Embeddings that are encoded once, and counted.

    Args:
        encoder: Of the captions; its weights are freed between uses unless it is to embed images too.
        captions: Each sample's, None where it has none; or those that a captioner makes.
        size: N.
        images: Image of a position, where the encoder is to embed images.

    Attributes:
        table: Text embeddings of the captions that there are.
        domains: Of the pool's samples in this run; None where no prompted caption is needed.
    """

    table: CaptionTable
    domains: Domains | None = None
    _accelerator: Accelerator
    _meter: CostMeter

    def __init__(
        self,
        encoder: TextEncoder,
        captions: list[Caption] | PoolCaptions,
        size: int,
        images: LoadImage | None,
    ) -> None:
        self.encoder, self.size, self.images = encoder, size, images
        self.made = captions if isinstance(captions, PoolCaptions) else None
        self.given = None if isinstance(captions, PoolCaptions) else captions
        # Loops and seed of the run whose table there is.
        self._drawn_for: tuple[int, int] | None = None
        self._image_rows: dict[int, Tensor] = {}

    @property
    def missing(self) -> int:
        """Samples without a caption; with a captioner, of those that it was asked about."""
        return self.table.missing if self.made is None else self.made.missing

    def begin(
        self, accelerator: Accelerator, meter: CostMeter, domains: Domains | None, loops: int = 1, seed: int = 0
    ) -> None:
        """Begin a run of so many loops: with the captions that are given, or none."""
        self._accelerator, self._meter = accelerator, meter
        is_known = self._drawn_for == (loops, seed) and _are_same(domains, self.domains)
        self.domains, self._drawn_for = domains, (loops, seed)
        if self.made is not None:
            self.made.begin()
            with self._encoding():
                self.table = CaptionTable.empty(self.size, self.encoder.dimension)
        elif not is_known:
            assert self.given is not None
            with self._encoding():
                self.table = caption_table(self.given, domains, self.encoder, loops, seed)

    def of_prompts(self, prompts: Sequence[str]) -> Tensor:
        """The domain prompts alone, unit rows. [D, d_t]."""
        with self._encoding():
            return normalize(self.encoder.encode(prompts), dim=-1)

    def of_images(self, indices: Tensor) -> Tensor:
        """The encoder's embeddings of these samples' images, unit rows. [n, d_t]."""
        assert self.images is not None
        load, missing = self.images, [index for index in indices.tolist() if index not in self._image_rows]
        if missing:
            with self._encoding():
                rows = normalize(
                    self.encoder.encode_images((load(index) for index in missing), total=len(missing)), dim=-1
                )
            self._image_rows.update(zip(missing, rows, strict=True))
        return torch.stack([self._image_rows[index] for index in indices.tolist()])

    def caption(self, indices: Tensor, hidden: bool) -> CaptionTable:
        """Have those of these samples captioned that are not yet; returns the table with them. LongTensor [n].

        Args:
            indices: The same in all processes.
            hidden: Whether to hide the progress bar.
        """
        assert self.made is not None
        begun = len(self.made.rounds)
        self.made.add(indices, self._accelerator, self._meter, hidden)
        return self._with_rounds(begun)

    def state_dict(self) -> dict[str, Tensor]:
        """The captions that were made."""
        return {} if self.made is None else self.made.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> CaptionTable:
        """Go on with these captions, of a run that has just begun; returns the table."""
        if self.made is None:
            return self.table
        counted = self._meter.state_dict()
        self.made.load_state_dict(state)
        table = self._with_rounds(0)
        # The run had done, and counted, this before the checkpoint was written.
        self._meter.load_state_dict(counted)
        return table

    def _with_rounds(self, begun: int) -> CaptionTable:
        """The table with the captions of this round and all later ones, encoded round by round, as they were made."""
        assert self.made is not None
        for indices, captions in self.made.rounds[begun:]:
            with self._encoding():
                self.table = with_captions(self.table, indices, captions, self.domains, self.encoder)
        return self.table

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        encoder, before = self.encoder, self.encoder.forwards
        encoder.device = encoder.device or self._accelerator.device
        # One process of a machine encodes, the others then read its cache.
        with self._accelerator.local_main_process_first(), self._meter.measured("encode_text"):
            yield
        self._meter.add("encode_text", encoder.forwards - before)
        if self.images is None:
            encoder.release()


def _are_same(domains: Domains | None, others: Domains | None) -> bool:
    if domains is None or others is None:
        return domains is others
    return domains.prompts == others.prompts and torch.equal(domains.turns, others.turns)
