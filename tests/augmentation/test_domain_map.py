"""LADS's losses against loops from its formulas, and a map that learns what they ask for."""

import math
from contextlib import nullcontext

import pytest
import torch
from every_case import every_case
from torch.nn.functional import cosine_similarity, normalize

from vecaf_hf.augmentation.domain_map import DomainMap, Known, class_loss, directional_loss, fitted

N, D, CLASSES = 300, 12, 4


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_directional_loss_is_one_minus_the_cosine_with_the_texts_shift():
    e, mapped, shifts = 5 * randn(6, D, seed=0), normalize(randn(6, D, seed=1), dim=1), randn(6, D, seed=2)
    terms = []
    for i in range(6):
        moved = mapped[i] - e[i] / math.sqrt(sum(float(x) ** 2 for x in e[i]))
        terms.append(1 - float(moved @ shifts[i] / (moved.norm() * shifts[i].norm())))
    assert float(directional_loss(e, mapped, shifts)) == pytest.approx(sum(terms) / 6)


def test_the_class_loss_is_the_cross_entropy_of_cosines_with_the_classes_texts():
    mapped, texts, labels = normalize(randn(6, D, seed=1), dim=1), 3 * randn(CLASSES, D, seed=2), [0, 3, 1, 2, 0, 0]
    terms = []
    for row, label in zip(mapped, labels, strict=True):
        logits = [float(row @ text / text.norm()) / 0.01 for text in texts]
        most = max(logits)
        terms.append(most + math.log(sum(math.exp(value - most) for value in logits)) - logits[label])
    assert float(class_loss(mapped, texts, torch.tensor(labels))) == pytest.approx(sum(terms) / 6)


def data(domains: int) -> dict[str, torch.Tensor]:
    """Classes around their texts, and a shift of each domain that leans on the class."""
    texts = 2 * randn(CLASSES, D, seed=0).float()
    labels, domain = torch.arange(N) % CLASSES, torch.arange(N) // CLASSES % domains
    shifts = randn(domains, D, seed=1).float()[domain] + 0.2 * randn(CLASSES, D, seed=2).float()[labels]
    embeddings = texts[labels] + 0.5 * randn(N, D, seed=3).float()
    return {"embeddings": embeddings, "shifts": shifts, "domains": domain, "classes": texts, "labels": labels}


@every_case("domains", [1, 3])
def test_what_is_learned_follows_the_shift_of_the_domain_and_keeps_the_class(domains):
    known = data(domains)
    network = fitted(Known(**known), count=domains, seed=0, counted=nullcontext)
    embeddings = known["classes"][known["labels"]] + 0.5 * randn(N, D, seed=4).float()  # Unseen ones.
    mapped = network(embeddings, known["domains"])
    torch.testing.assert_close(mapped.norm(dim=1), torch.ones(N))
    assert float(directional_loss(embeddings, mapped, known["shifts"])) < 0.15
    nearest = (mapped @ normalize(known["classes"], dim=1).T).argmax(dim=1)
    assert float((nearest == known["labels"]).float().mean()) > 0.95
    untrained = DomainMap(D, domains)(embeddings, known["domains"])
    assert float(directional_loss(embeddings, untrained.detach(), known["shifts"])) > 0.5


def test_one_map_has_a_direction_for_each_domain():
    known = data(2)
    network = fitted(Known(**known), count=2, seed=0, counted=nullcontext)
    start = normalize(known["embeddings"], dim=1)
    moved = [network(known["embeddings"], torch.full((N,), domain)) - start for domain in (0, 1)]
    between = cosine_similarity(*moved).mean()
    texts = cosine_similarity(*(known["shifts"][known["domains"] == domain].mean(dim=0)[None] for domain in (0, 1)))
    assert float(between) == pytest.approx(float(texts), abs=0.2)


def test_scale_of_the_embeddings_does_not_matter():
    network, e = DomainMap(D, 1), randn(5, D, seed=0).float()
    domains = torch.zeros(5, dtype=torch.long)
    torch.testing.assert_close(network(7 * e, domains), network(e, domains))


def test_fewer_samples_than_a_batch():
    known = {name: tensor if name == "classes" else tensor[:3] for name, tensor in data(1).items()}
    network = fitted(Known(**known), count=1, seed=0, counted=nullcontext)
    assert all(bool(parameter.isfinite().all()) and not parameter.requires_grad for parameter in network.parameters())
