"""Eq. 8 and 9 for samples of the pool: their texts looked up, aligned, and their embeddings moved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from vecaf_hf.augmentation.alignment import ALIGNMENTS, Aligner
from vecaf_hf.augmentation.cea import (
    attention,
    augmented,
    domain_affinity,
    domain_similarity,
    toward_caption,
    toward_difference,
    toward_random,
)
from vecaf_hf.augmentation.counted_map import CountedMap
from vecaf_hf.augmentation.domain_map import Known
from vecaf_hf.augmentation.options import BY_CLASS, CEAOptions
from vecaf_hf.seeding import seed_of
from vecaf_hf.selection.candidates import Candidates, evenly_spaced
from vecaf_hf.text.captions import CaptionTable
from vecaf_hf.text.domains import Domains

# Candidates augmented at once: bounds the memory for their text embeddings.
CHUNK_ROWS = 2**16


@dataclass(frozen=True)
class Texts:
    """What pulls at n samples. Each distinct text is held once: thousands of samples may share a class's caption.

    Args:
        targets: Distinct text embeddings to move towards. [u, d_t].
        target_rows: Row of each sample's target. LongTensor [n].
        references: Distinct text embeddings to move away from; empty to move away from the image embedding. [v, d_t].
        reference_rows: Row of each sample's reference, all 0 without references. LongTensor [n].
        domains: Row of each sample's domain prompt, all 0 without several. LongTensor [n].
        alpha: Strength of the pull, 0 for samples without a caption. [n].
    """

    targets: Tensor
    target_rows: Tensor
    references: Tensor
    reference_rows: Tensor
    domains: Tensor
    alpha: Tensor

    @classmethod
    def none(cls) -> Texts:
        """Of no samples."""
        nothing, rows = torch.empty(0, 0), torch.empty(0, dtype=torch.long)
        return cls(nothing, rows, nothing, rows, rows, torch.empty(0))

    def take(self, rows: Tensor | slice) -> Texts:
        """The same for some of the samples."""
        return replace(
            self,
            target_rows=self.target_rows[rows],
            reference_rows=self.reference_rows[rows],
            domains=self.domains[rows],
            alpha=self.alpha[rows],
        )

    def to(self, device: torch.device) -> Texts:
        return Texts(**{name: tensor.to(device) for name, tensor in vars(self).items()})


class Augmenter:
    """Moves embeddings of pool samples towards their captions.

    Args:
        options: What to do.
        table: Text embeddings of the pool's captions.
        dimension: d, of the image embeddings.
        labels: Class of each sample, for `toward="instance"` and `"learned_difference"`. LongTensor [N].
        domains: Domain of each sample; None where no prompted caption is needed.
        mapping: From embeddings to those in a domain, for `toward="learned_difference"`.
        seed: Of the direction of `toward="random"`.

    Attributes:
        loop: That is going on: it says which domain a sample goes by.
        aligner: From texts to image embeddings.
        line: Random direction, of length one. [d].
    """

    def __init__(
        self,
        options: CEAOptions,
        table: CaptionTable,
        dimension: int,
        labels: Tensor | None,
        domains: Domains | None = None,
        mapping: CountedMap | None = None,
        seed: int = 0,
    ) -> None:
        self.options, self.loop = options, 0
        self.aligner = Aligner(table.plain.shape[1], dimension)
        self.line = normalize(torch.randn(dimension, generator=torch.Generator().manual_seed(seed_of(seed))), dim=-1)
        self.mapping, self._labels, self._domains = mapping, labels, domains
        self.take(table)

    def take(self, table: CaptionTable) -> None:
        """Go by these captions from now on."""
        self.table = table
        labels = self._labels if self.options.toward in BY_CLASS else None
        self._class_texts = None if labels is None else _class_means(table, labels)

    @property
    def _by_class(self) -> tuple[Tensor, Tensor]:
        """The mean text embedding of each class's captions, [C, d_t], and each sample's class, [N]."""
        if self._class_texts is None or self._labels is None:
            raise ValueError(f"toward={self.options.toward!r} needs one class per sample")
        return self._class_texts, self._labels

    @property
    def _learned_map(self) -> CountedMap:
        if self.mapping is None:
            raise ValueError(f"toward={self.options.toward!r} needs a map to learn")
        return self.mapping

    def to(self, device: torch.device) -> None:
        self.aligner.to(device)
        self.line = self.line.to(device)

    def alignment_rows(self, candidates: Candidates) -> Tensor:
        """Rows of the candidates that an alignment is fitted on: evenly spaced among those with a caption."""
        rows = self.table.captioned(candidates.indices).nonzero().squeeze(1)
        return rows[evenly_spaced(len(rows), self.options.alignment_samples)]

    def fit(self, sources: Tensor, embeddings: Tensor) -> None:
        """Fit the alignment on pairs. [n, d_t], [n, d]."""
        self.aligner.set(*ALIGNMENTS[self.options.alignment](sources, embeddings))

    def fit_map(self, candidates: Candidates) -> None:
        """Train the map, if there is one and a prompt acts, on these candidates, which have captions."""
        if self.mapping is None or self._domains is None:
            return
        class_texts, labels = self._by_class
        indices = candidates.indices
        prompted, plain = (self._aligned(self.table.of(indices, where, self.loop)) for where in (True, False))
        # A class without captions has no text that an image could be compared with.
        classes = labels[self.table.rows >= 0].unique()
        known = Known(
            embeddings=candidates.given("embeddings").float(),
            shifts=prompted - plain,
            domains=self._domains.in_loop(self.loop)[indices],
            classes=self._aligned(class_texts[classes]),
            labels=torch.searchsorted(classes, labels[indices]),
        )
        self.mapping.fit(known, self.loop)

    def texts(self, candidates: Candidates, place: str) -> Texts:
        """What pulls at these samples in `training` or in `selection`."""
        indices, options = candidates.indices, self.options
        alpha, prompted = self._alpha(candidates), place in options.prompt_in
        if options.toward == "learned_difference" and not prompted:
            alpha = torch.zeros_like(alpha)
        targets, target_rows = self._texts_of(indices, prompted)
        references, reference_rows = targets[:0], torch.zeros_like(target_rows)
        if options.toward in ("difference", "random"):
            references, reference_rows = self._texts_of(indices, prompted=False)
        elif options.toward == "instance":
            class_texts, labels = self._by_class
            references, reference_rows = _distinct(class_texts, labels[indices])
        domains = self._domains.in_loop(self.loop)[indices] if self._domains else torch.zeros_like(indices)
        return Texts(targets, target_rows, references, reference_rows, domains, alpha)

    def _texts_of(self, indices: Tensor, prompted: bool) -> tuple[Tensor, Tensor]:
        texts, rows = self.table.texts(prompted, self.loop)
        return _distinct(texts, rows[indices])

    def moved(self, embeddings: Tensor, texts: Texts) -> Tensor:
        """Eq. 9. Embeddings, texts and aligner on one device. [n, d] -> [n, d]."""
        return augmented(embeddings, self._direction(embeddings, texts), texts.alpha, self.options.step_size)

    def _direction(self, embeddings: Tensor, texts: Texts) -> Tensor:
        if self.options.toward == "learned_difference":
            return toward_caption(embeddings, self._learned_map(embeddings, texts.domains))
        targets = self.aligner(texts.targets[texts.target_rows])
        if len(texts.references) == 0:
            return toward_caption(embeddings, targets)
        references = self.aligner(texts.references[texts.reference_rows])
        difference = toward_difference(embeddings, targets, references)
        return toward_random(difference, self.line) if self.options.toward == "random" else difference

    @torch.no_grad()
    def augment(self, candidates: Candidates) -> Candidates:
        """The candidates as the next selection sees them."""
        device, held = self.aligner.weight.device, candidates.held_embeddings
        texts = self.texts(candidates, "selection").take(held.share).to(device)
        moved = torch.empty_like(held.own)
        for start in range(0, len(moved), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            moved[rows] = self.moved(held.own[rows].float().to(device), texts.take(rows)).to(moved)
        return candidates.with_embeddings(moved)

    def with_affinity(self, candidates: Candidates, domains: Tensor) -> Candidates:
        """The candidates with their affinity to the domains whose prompts have these text embeddings. [D, d_t]."""
        temperature = self.options.domain_affinity
        if temperature is None:
            return candidates
        if self.options.affinity_by == "caption":
            similarities = self._similarity_of_captions(candidates.indices, domains)
        else:
            held = candidates.held_embeddings
            similarities = held.whole(domain_similarity(held.own.float(), self._aligned(domains)))
        return replace(candidates, relevance=domain_affinity(similarities, temperature))

    def _similarity_of_captions(self, indices: Tensor, domains: Tensor) -> Tensor:
        """That of a sample without a caption is the others' mean. LongTensor [n], [D, d_t] -> [n]."""
        captioned = self.table.captioned(indices)
        found = domain_similarity(self.table.plain, domains)[self.table.texts(False, self.loop)[1][indices]]
        return torch.where(captioned, found, found[captioned].mean().nan_to_num())

    def _aligned(self, texts: Tensor) -> Tensor:
        """On the CPU. [n, d_t] -> [n, d]."""
        return self.aligner(texts.to(self.aligner.weight.device)).cpu()

    def _alpha(self, candidates: Candidates) -> Tensor:
        """Eq. 8 over the candidates that have a caption, 0 for the others. [n]."""
        prompted, device = "attention" in self.options.prompt_in, self.aligner.weight.device
        captioned, held = self.table.captioned(candidates.indices), candidates.held_embeddings
        alpha = torch.zeros(len(candidates))
        if not captioned.any():
            return alpha
        indices, own = candidates.indices[held.share], captioned[held.share].nonzero().squeeze(1)
        cosines = [
            cosine_similarity(
                held.own[part].float().to(device),
                self.aligner(self.table.of(indices[part], prompted, self.loop).to(device)),
            ).cpu()
            for part in own.split(CHUNK_ROWS)
        ]
        every = held.whole(torch.cat([alpha[:0], *cosines]))
        alpha[captioned] = attention(every, self.options.attention, self.options.step_size)
        return alpha


def _class_means(table: CaptionTable, labels: Tensor) -> Tensor:
    """Mean text embedding of each class's captions; zeros of a class without. [C, d_t]."""
    captioned = table.rows >= 0
    classes, rows = labels[captioned], table.rows[captioned]
    sums = torch.zeros(int(labels.max()) + 1, table.plain.shape[1])
    for part in torch.arange(len(rows)).split(CHUNK_ROWS):
        sums.index_add_(0, classes[part], table.plain[rows[part]])
    counts = torch.bincount(classes, minlength=len(sums))
    return sums / counts[:, None].clamp(min=1)


def _distinct(vectors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors that occur, and the row of each occurrence among them; -1 counts as the first. [u, d], [n]."""
    if not len(vectors):
        return vectors.new_zeros(1, vectors.shape[1]), torch.zeros_like(rows)
    kept, inverse = rows.clamp(min=0).unique(return_inverse=True)
    return vectors[kept], inverse
