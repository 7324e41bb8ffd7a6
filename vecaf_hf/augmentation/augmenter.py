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
from vecaf_hf.candidates import Candidates

# Candidates augmented at once: bounds the memory for their text embeddings.
CHUNK_ROWS = 2**16


@dataclass(frozen=True)
class Texts:
    """What pulls at n samples.

    Args:
        targets: Text embeddings to move towards. [n, d_t].
        references: Text embeddings to move away from, or None to move away from the image embedding. [n, d_t].
        alpha: Strength of the pull, 0 for samples without a caption. [n].
    """

    targets: Tensor
    references: Tensor | None
    alpha: Tensor

    def take(self, rows: Tensor | slice) -> Texts:
        references = None if self.references is None else self.references[rows]
        return Texts(self.targets[rows], references, self.alpha[rows])

    def to(self, device: torch.device) -> Texts:
        references = None if self.references is None else self.references.to(device)
        return Texts(self.targets.to(device), references, self.alpha.to(device))


class Augmenter:
    """Moves embeddings of pool samples towards their captions.

    Args:
        options: What to do.
        table: Text embeddings of the pool's captions.
        dimension: d, of the image embeddings.
        labels: Class of each sample, for `toward="instance"`. LongTensor [N].
    """

    def __init__(self, options: CEAOptions, table: CaptionTable, dimension: int, labels: Tensor | None) -> None:
        self.options, self.table = options, table
        self.aligner = Aligner(table.plain.shape[1], dimension, trained=options.alignment == "learned")
        self.fitted = False
        self._labels = labels
        self._class_texts = _class_means(table, labels) if options.toward == "instance" else None

    def alignment_rows(self, candidates: Candidates) -> Tensor:
        """Rows of the candidates that an alignment is fitted on: evenly spaced among those with a caption."""
        rows = self.table.captioned(candidates.indices).nonzero().squeeze(1)
        count = min(len(rows), self.options.alignment_samples)
        return rows[torch.linspace(0, len(rows) - 1, count).round().long()]

    def fit(self, sources: Tensor, embeddings: Tensor) -> None:
        """Fit the alignment on pairs; a learned one only once, as its start. [n, d_t], [n, d]."""
        if self.options.alignment == "learned" and self.fitted:
            return
        self.aligner.set(*ALIGNMENTS[self.options.alignment](sources, embeddings))
        self.fitted = True

    def texts(self, candidates: Candidates, place: str) -> Texts:
        """What pulls at these samples in `training` or in `selection`."""
        assert candidates.embeddings is not None
        indices, options = candidates.indices, self.options
        references = None
        if options.toward == "difference":
            references = self.table.of(indices, prompted=False)
        elif options.toward == "instance":
            assert self._class_texts is not None and self._labels is not None
            references = self._class_texts[self._labels[indices]]
        targets = self.table.of(indices, prompted=place in options.prompt_in)
        return Texts(targets, references, self._alpha(candidates))

    def moved(self, embeddings: Tensor, texts: Texts) -> Tensor:
        """Eq. 9. Embeddings, texts and aligner on one device. [n, d] -> [n, d]."""
        targets = self.aligner(texts.targets)
        if texts.references is None:
            direction = toward_caption(embeddings, targets)
        else:
            direction = toward_difference(embeddings, targets, self.aligner(texts.references))
        return augmented(embeddings, direction, texts.alpha, self.options.step_size)

    @torch.no_grad()
    def augment(self, candidates: Candidates) -> Candidates:
        """The candidates as the next selection sees them."""
        assert candidates.embeddings is not None
        device = self.aligner.weight.device
        parts = []
        alpha = self._alpha(candidates)
        for start in range(0, len(candidates), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            part = candidates.take(torch.arange(len(candidates))[rows])
            texts = replace(self.texts(part, "selection"), alpha=alpha[rows]).to(device)
            assert part.embeddings is not None
            parts.append(self.moved(part.embeddings.to(device), texts).cpu())
        return replace(candidates, embeddings=torch.cat(parts))

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
    labels_, rows = labels[captioned], table.rows[captioned]
    counts = torch.zeros(int(labels.max()) + 1, len(table.plain))
    counts.index_put_((labels_, rows), torch.ones(len(rows)), accumulate=True)
    return counts @ table.plain / counts.sum(dim=1, keepdim=True).clamp(min=1)
