"""Each loss against the paper's formula, written out number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from styling.losses import content_loss, directional_losses, patch_loss, total_variation

COUNT, DIMENSION = 7, 5


@pytest.fixture
def vectors() -> list[np.ndarray]:
    """Embeddings of restyled images and of their sources, and the direction of the text."""
    generator = np.random.default_rng(0)
    shapes = [(COUNT, DIMENSION), (COUNT, DIMENSION), (DIMENSION,)]
    return [generator.normal(size=shape) for shape in shapes]


def expected(restyled: np.ndarray, source: np.ndarray, text: np.ndarray) -> float:
    change = [one - other for one, other in zip(restyled, source, strict=True)]
    product = sum(one * other for one, other in zip(change, text, strict=True))
    norms = math.sqrt(sum(one**2 for one in change)) * math.sqrt(sum(one**2 for one in text))
    return 1 - product / norms


def test_directional_loss(vectors: list[np.ndarray]) -> None:
    restyled, sources, text = vectors
    losses = directional_losses(*map(torch.from_numpy, vectors))
    assert losses.tolist() == pytest.approx([expected(*rows, text) for rows in zip(restyled, sources, strict=True)])


def test_a_change_along_the_text_costs_nothing_and_against_it_two() -> None:
    text, source = torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 2.0]])
    assert directional_losses(source + 0.1 * text, source, text).item() == pytest.approx(0, abs=1e-6)
    assert directional_losses(source - 9 * text, source, text).item() == pytest.approx(2)


def test_patch_loss_forgets_views_that_are_near_enough(vectors: list[np.ndarray]) -> None:
    restyled, sources, text = vectors
    losses = [expected(*rows, text) for rows in zip(restyled, sources, strict=True)]
    threshold = sorted(losses)[COUNT // 2]
    kept = [loss if loss > threshold else 0 for loss in losses]
    assert 0 < kept.count(0) < COUNT
    found = patch_loss(*map(torch.from_numpy, vectors), threshold * (1 + 1e-12))
    assert found.item() == pytest.approx(sum(kept) / COUNT)


def test_a_forgotten_view_has_no_gradient(vectors: list[np.ndarray]) -> None:
    restyled, sources, text = map(torch.from_numpy, vectors)
    losses = directional_losses(restyled, sources, text)
    restyled.requires_grad_()
    patch_loss(restyled, sources, text, losses.median().item()).backward()
    assert restyled.grad is not None
    moved = restyled.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == (losses > losses.median()).tolist()


def test_content_loss_is_summed_over_layers() -> None:
    generator = np.random.default_rng(0)
    layers = [generator.normal(size=(2, *shape)) for shape in [(2, 3, 4, 4), (2, 5, 2, 2)]]
    wanted = 0.0
    for ours, theirs in layers:
        wanted += sum((one - other) ** 2 for one, other in zip(ours.flat, theirs.flat, strict=True)) / ours.size
    restyled, sources = zip(*[map(torch.from_numpy, layer) for layer in layers], strict=True)
    assert content_loss(restyled, sources).item() == pytest.approx(wanted)


def test_total_variation_looks_at_all_eight_neighbours() -> None:
    images = np.random.default_rng(0).uniform(size=(2, 3, 4, 5))
    wanted = 0.0
    for down, right in [(0, 1), (1, 0), (1, 1), (1, -1)]:
        squares = 0.0
        for place in np.ndindex(images.shape):
            neighbour = (*place[:2], place[2] + down, place[3] + right)
            if neighbour[2] < 4 and 0 <= neighbour[3] < 5:
                squares += (images[neighbour] - images[place]) ** 2
        wanted += math.sqrt(squares)
    assert total_variation(torch.from_numpy(images)).item() == pytest.approx(wanted)
    assert total_variation(torch.full((1, 3, 4, 5), 0.3)).item() == 0
