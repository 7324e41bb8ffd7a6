"""LADS (arXiv 2210.09520): a small network that moves image embeddings into a domain which only texts describe.

Two losses train it on embeddings alone. Directional: what it does to an image's embedding points where the prompt takes
its caption's. Class consistency: the texts of the classes still tell the image's class. LADS has a network for each
domain, made of two layers, and then trains a linear classifier on CLIP's embeddings; here one network of that size adds
to the embedding, which is there from the start, is told the domain, and works in the embedding space of the model that
is finetuned, into which the texts are aligned.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from vecaf_hf.seeding import seeded

STEPS = 200
BATCH_SIZE = 256
LEARNING_RATE = 5e-3
WEIGHT_DECAY = 0.05
# Of the class-consistency loss; the directional one has the rest.
CLASS_WEIGHT = 0.5
# Divides cosines of embeddings and texts of classes, as CLIP's does.
TEMPERATURE = 0.01


class DomainMap(nn.Module):
    """e -> its direction in the domain. [n, d], LongTensor [n] -> unit rows [n, d].

    Args:
        dimension: d; half of it are hidden.
        domains: D.
    """

    def __init__(self, dimension: int, domains: int) -> None:
        super().__init__()
        hidden = max(1, dimension // 2)
        self.hidden = nn.Linear(dimension, hidden)
        self.domain = nn.Embedding.from_pretrained(torch.zeros(domains, hidden), freeze=False)
        self.out = nn.Linear(hidden, dimension)

    def forward(self, embeddings: Tensor, domains: Tensor) -> Tensor:
        start = normalize(embeddings, dim=-1)
        return normalize(start + self.out((self.hidden(start) + self.domain(domains)).relu()), dim=-1)


def directional_loss(embeddings: Tensor, mapped: Tensor, shifts: Tensor) -> Tensor:
    """1 - cos(f(e) - e, t_prompted - t_plain), the mean, e at length one. [n, d], [n, d], [n, d] -> []."""
    return 1 - cosine_similarity(mapped - normalize(embeddings, dim=-1), shifts).mean()


def class_loss(mapped: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the class that the nearest of the classes' texts tells. [n, d], [C, d], LongTensor [n] -> []."""
    return cross_entropy(mapped @ normalize(classes, dim=-1).T / TEMPERATURE, labels)


@dataclass(frozen=True)
class Known:
    """What a map learns from.

    Args:
        embeddings: Of images. [n, d].
        shifts: t_prompted - t_plain of each one's caption, aligned. [n, d].
        domains: From 0 on. LongTensor [n].
        classes: Text of each class, aligned. [C, d].
        labels: LongTensor [n].
    """

    embeddings: Tensor
    shifts: Tensor
    domains: Tensor
    classes: Tensor
    labels: Tensor


def fitted(known: Known, count: int, seed: int, counted: Callable[[int], AbstractContextManager[None]]) -> DomainMap:
    """A map trained from scratch, on the CPU: the same data and seed give the same one.

    Args:
        known: What it learns from.
        count: How many domains there are.
        seed: Of the first weights and the batches.
        counted: Takes the samples of a step, which is done inside it.
    """
    embeddings = known.embeddings
    with seeded(seed), torch.enable_grad():
        network = DomainMap(embeddings.shape[1], count)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(STEPS):
            rows = torch.randint(len(embeddings), (min(BATCH_SIZE, len(embeddings)),))
            with counted(len(rows)):
                mapped = network(embeddings[rows], known.domains[rows])
                directional = directional_loss(embeddings[rows], mapped, known.shifts[rows])
                consistent = class_loss(mapped, known.classes, known.labels[rows])
                ((1 - CLASS_WEIGHT) * directional + CLASS_WEIGHT * consistent).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network.requires_grad_(False)
