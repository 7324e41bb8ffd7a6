"""Pools that several test modules select from."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from threadpoolctl import threadpool_limits

from vecaf_hf.selection.candidates import Candidates, LinearHead

MakePool = Callable[..., Candidates]


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Thousands of tiny operations: threads that wait for each other on a busy machine cost minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def make_pool() -> MakePool:
    return _make_pool


def _make_pool(size: int = 60, dimension: int = 6, classes: int = 3, seed: int = 0, multiply: int = 3) -> Candidates:
    """Gaussian classes of unequal size; embeddings in float64; indices that are not the rows."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dimension, generator=generator, dtype=torch.float64)
    labels = (torch.rand(size, generator=generator).square() * classes).long()
    noise = torch.randn(size, dimension, generator=generator, dtype=torch.float64)
    made = Candidates(
        indices=torch.arange(size) * multiply + 1,
        embeddings=centres[labels] + noise,
        losses=torch.rand(size, generator=generator) * 3,
        labels=labels,
        logits=torch.randn(size, classes, generator=generator),
        irreducible=torch.rand(size, generator=generator) * 3,
        learned_scores=torch.randn(size, generator=generator),
        head=LinearHead(
            torch.randn(classes, dimension, generator=generator), torch.randn(classes, generator=generator) * 0.1
        ),
    )
    # Training has seen most of them, and is half over.
    training_losses = torch.rand(size, generator=generator) * 3
    training_losses[torch.rand(size, generator=generator) < 0.2] = torch.nan
    groups = torch.randint(2, (size,), generator=generator)
    mistaken = torch.rand(size, generator=generator) < 0.3
    return replace(made, training_losses=training_losses, progress=0.5, groups=groups, mistaken=mistaken)
