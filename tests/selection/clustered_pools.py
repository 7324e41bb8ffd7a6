"""Pools in which the losses differ between regions: does a selection follow them?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vecaf_hf.selection.candidates import Candidates


@dataclass(frozen=True)
class Kind:
    """How a pool of clusters is made.

    Args:
        dimension: d.
        spread: Of a cluster, beside the distance of their centres, which is about 1.
        hard: Part of the clusters with large losses.
        easy_loss: Mean of the others' losses.
        noise: How far losses in a cluster lie apart: of the exponent of a factor.
        uneven: Whether clusters differ in size.
        positive: Whether embeddings are so, as after a ReLU: all directions are near each other then.
    """

    dimension: int = 32
    spread: float = 0.35
    hard: float = 0.25
    easy_loss: float = 0.07
    noise: float = 0.1
    uneven: bool = False
    positive: bool = False


KINDS = {
    "tight": Kind(),
    "wide": Kind(spread=1.0),
    "few dimensions": Kind(dimension=8),
    "many dimensions": Kind(dimension=256, spread=0.7),
    "losses differ in a cluster": Kind(noise=0.8),
    "clusters of all sizes": Kind(uneven=True),
    "rare and hard": Kind(hard=0.05, uneven=True),
    "positive": Kind(dimension=64, positive=True),
}
CLUSTERS = 40


def clustered(kind: Kind, size: int = 4000, seed: int = 0) -> tuple[Candidates, torch.Tensor]:
    """A pool, and the cluster of each sample: the first ones are the hard ones. LongTensor [N]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLUSTERS, kind.dimension, generator=generator)
    shares = torch.rand(CLUSTERS, generator=generator) + 0.2 if kind.uneven else torch.ones(CLUSTERS)
    cluster = torch.multinomial(shares, size, True, generator=generator)
    embeddings = centres[cluster] + kind.spread * torch.randn(size, kind.dimension, generator=generator)
    mean = torch.where(cluster < kind.hard * CLUSTERS, 1.0, kind.easy_loss)
    losses = mean * (kind.noise * torch.randn(size, generator=generator)).exp()
    embeddings = embeddings.relu() if kind.positive else embeddings
    return Candidates(torch.arange(size), embeddings=embeddings, losses=losses), cluster
