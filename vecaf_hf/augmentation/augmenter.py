"""Eq. 8 and 9 for samples of the pool: their texts looked up, aligned, and their embeddings moved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vecaf_hf.augmentation.alignment import ALIGNMENTS, Aligner
from vecaf_hf.augmentation.captions import CaptionTable
from vecaf_hf.augmentation.cea import attention, augmented, domain_affinity, toward_caption, toward_difference
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.candidates import Candidates, evenly_spaced

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
        alpha: Strength of the pull, 0 for samples without a caption. [n].
    """

    targets: Tensor
    target_rows: Tensor
    references: Tensor
    reference_rows: Tensor
    alpha: Tensor

    def take(self, rows: Tensor | slice) -> Texts:
        """The same for some of the samples."""
        return replace(
            self,
            target_rows=self.target_rows[rows],
            reference_rows=self.reference_rows[rows],
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
        labels: Class of each sample, for `toward="instance"`. LongTensor [N].
    """

    def __init__(self, options: CEAOptions, table: CaptionTable, dimension: int, labels: Tensor | None) -> None:
        self.options = options
        self.aligner = Aligner(table.plain.shape[1], dimension, trained=options.alignment == "learned")
        self.fitted = False
        self._labels = labels
        self.take(table)

    def take(self, table: CaptionTable) -> None:
        """Go by these captions from now on."""
        self.table = table
        self._class_texts = _class_means(table, self._labels) if self.options.toward == "instance" else None

    def alignment_rows(self, candidates: Candidates) -> Tensor:
        """Rows of the candidates that an alignment is fitted on: evenly spaced among those with a caption."""
        rows = self.table.captioned(candidates.indices).nonzero().squeeze(1)
        return rows[evenly_spaced(len(rows), self.options.alignment_samples)]

    def fit(self, sources: Tensor, embeddings: Tensor) -> None:
        """Fit the alignment on pairs; a learned one only once, as its start. [n, d_t], [n, d]."""
        if self.options.alignment == "learned" and self.fitted:
            return
        self.aligner.set(*ALIGNMENTS[self.options.alignment](sources, embeddings))
        self.fitted = True

    def texts(self, candidates: Candidates, place: str) -> Texts:
        """What pulls at these samples in `training` or in `selection`."""
        indices, options = candidates.indices, self.options
        alpha = self._alpha(candidates)
        targets, target_rows = _distinct(self.table.texts(place in options.prompt_in), self.table.rows[indices])
        references, reference_rows = targets[:0], torch.zeros_like(target_rows)
        if options.toward == "difference":
            references, reference_rows = _distinct(self.table.texts(prompted=False), self.table.rows[indices])
        elif options.toward == "instance":
            assert self._class_texts is not None and self._labels is not None
            references, reference_rows = _distinct(self._class_texts, self._labels[indices])
        return Texts(targets, target_rows, references, reference_rows, alpha)

    def moved(self, embeddings: Tensor, texts: Texts) -> Tensor:
        """Eq. 9. Embeddings, texts and aligner on one device. [n, d] -> [n, d]."""
        targets = self.aligner(texts.targets[texts.target_rows])
        if len(texts.references) == 0:
            direction = toward_caption(embeddings, targets)
        else:
            references = self.aligner(texts.references[texts.reference_rows])
            direction = toward_difference(embeddings, targets, references)
        return augmented(embeddings, direction, texts.alpha, self.options.step_size)

    @torch.no_grad()
    def augment(self, candidates: Candidates) -> Candidates:
        """The candidates as the next selection sees them."""
        assert candidates.embeddings is not None
        device = self.aligner.weight.device
        texts = self.texts(candidates, "selection").to(device)
        moved = torch.empty_like(candidates.embeddings)
        for start in range(0, len(candidates), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            moved[rows] = self.moved(candidates.embeddings[rows].to(device), texts.take(rows)).cpu()
        return replace(candidates, embeddings=moved)

    @torch.no_grad()
    def with_affinity(self, candidates: Candidates, domain: Tensor) -> Candidates:
        """The candidates with their affinity to the domain whose prompt has this text embedding. [d_t]."""
        assert candidates.embeddings is not None and self.options.domain_affinity is not None
        aligned = self.aligner(domain.to(self.aligner.weight.device)).cpu()
        relevance = domain_affinity(candidates.embeddings, aligned, self.options.domain_affinity)
        return replace(candidates, relevance=relevance)

    @torch.no_grad()
    def _alpha(self, candidates: Candidates) -> Tensor:
        """Eq. 8 over the candidates that have a caption, 0 for the others. [n]."""
        assert candidates.embeddings is not None
        prompted, device = "attention" in self.options.prompt_in, self.aligner.weight.device
        rows = self.table.captioned(candidates.indices).nonzero().squeeze(1)
        alpha = torch.zeros(len(candidates))
        if len(rows) == 0:
            return alpha
        cosines = [
            cosine_similarity(
                candidates.embeddings[part].to(device),
                self.aligner(self.table.of(candidates.indices[part], prompted).to(device)),
            ).cpu()
            for part in rows.split(CHUNK_ROWS)
        ]
        alpha[rows] = attention(torch.cat(cosines), self.options.attention, self.options.step_size)
        return alpha


def _class_means(table: CaptionTable, labels: Tensor | None) -> Tensor:
    """Mean text embedding of each class's captions. [C, d_t]."""
    if labels is None:
        raise ValueError('toward="instance" needs one class per sample, and no labels could be read: set label_column')
    captioned = table.rows >= 0
    classes, rows = labels[captioned], table.rows[captioned]
    sums = torch.zeros(int(labels.max()) + 1, table.plain.shape[1])
    for part in torch.arange(len(rows)).split(CHUNK_ROWS):
        sums.index_add_(0, classes[part], table.plain[rows[part]])
    counts = torch.bincount(classes, minlength=len(sums))
    return sums / counts[:, None].clamp(min=1)


def _distinct(vectors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors that occur, and the row of each occurrence among them; -1 counts as the first. [u, d], [n]."""
    kept, inverse = rows.clamp(min=0).unique(return_inverse=True)
    return vectors[kept], inverse
