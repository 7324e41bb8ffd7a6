"""What tests of a user's own trainer class share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vecaf_hf import VeCAFTrainer


@pytest.fixture
def make(make_trainer: Callable[..., VeCAFTrainer], monkeypatch: pytest.MonkeyPatch) -> Callable[..., VeCAFTrainer]:
    """`make_trainer`, of a subclass."""

    def made(kind: type[VeCAFTrainer], *args: Any, **options: Any) -> VeCAFTrainer:
        monkeypatch.setitem(make_trainer.__globals__, "VeCAFTrainer", kind)  # type: ignore[attr-defined]
        return make_trainer(*args, **options)

    return made


@pytest.fixture
def check_recorded() -> Callable[[VeCAFTrainer], None]:
    """Trains by a strategy that goes by training's losses, at a rate of 0: those recorded are the scorer's."""

    def check(trainer: VeCAFTrainer) -> None:
        trainer.train()
        assert trainer.loop is not None and trainer.loop.selector.training_losses is not None
        found = trainer.loop.selector.training_losses.gathered()
        seen = found.isfinite().nonzero().squeeze(1)
        expected = trainer.scorer.score(seen)
        torch.testing.assert_close(found[expected.indices], expected.given("losses"), rtol=1e-4, atol=1e-4)
        assert len(seen) > 20

    return check
