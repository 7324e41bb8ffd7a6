"""What docs/peers.md says of vecaf_hf on the arrays on which other libraries surprise."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vecaf_hf import Selection
from vecaf_hf.selection import select

SCRIPT = Path(__file__).parents[2] / "docs" / "peers" / "ask.py"


@pytest.fixture(scope="module")
def ask() -> Any:
    """The page's script; it imports the other libraries only where it asks them."""
    spec: Any = importlib.util.spec_from_file_location("ask", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def selected(points: np.ndarray, strategy: str, **options: Any) -> Selection:
    embeddings, labels = torch.from_numpy(points), torch.zeros(len(points), dtype=torch.long)
    head = torch.randn(points.shape[1], 5, generator=torch.Generator().manual_seed(0))
    logits = {"logits": embeddings.float() @ head} if strategy == "badge" else {}
    return select(embeddings, torch.ones(len(points)), budget=20, strategy=strategy, labels=labels, **logits, **options)


@pytest.mark.parametrize("strategy", ["ods", "activeft", "k_center", "badge"])
@pytest.mark.parametrize("array", ["copies", "popular"])
def test_a_copy_comes_only_when_all_else_is_taken(ask: Any, array: str, strategy: str) -> None:
    points = getattr(ask, array)()
    assert ask.distinct(selected(points, strategy).indices.numpy(), points) == (20, 20)


@pytest.mark.parametrize("strategy", ["ods", "activeft", "k_center"])
def test_half_precision_selects_as_the_same_numbers_in_float32(ask: Any, strategy: str) -> None:
    half = ask.large()
    assert selected(half, strategy).indices.equal(selected(half.astype(np.float32), strategy).indices)


@pytest.mark.parametrize(("strategy", "heavy"), [("loss_sampling", {5}), ("ods", {1, 2})])
def test_weights_are_seen(ask: Any, strategy: str, heavy: set[int]) -> None:
    points, weights = (torch.from_numpy(values) for values in ask.heavy())
    how = {"strategy": strategy, "loss_weighting": "raw", "allocation": "global"}
    selections = [select(points, weights, budget=8, seed=seed, **how) for seed in range(5)]
    assert {int((selection.indices >= ask.LIGHT).sum()) for selection in selections} <= heavy
