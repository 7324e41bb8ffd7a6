"""A Hub on this machine, for whoever pushes in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import huggingface_hub
import pytest
from huggingface_hub.utils import close_session
from local_hub import TOKEN, Hub, serving

from vecaf_hf import VeCAFTrainer


@pytest.fixture
def hub_server() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def hub(hub_server: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server as this process's Hub. huggingface_hub has read the environment when it was imported, long ago, and
    reads its constants each time: so these are set, whatever the environment says (HF_HUB_OFFLINE among others)."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # A connection kept open to an earlier test's server.
    close_session()
    yield hub_server
    close_session()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Tries after a failure come at once; what they would have waited, in seconds."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture
def finished(make_vit: Callable[..., object], make_trainer: Callable[..., VeCAFTrainer]) -> VeCAFTrainer:
    """Trained, and nothing pushed."""
    trainer = make_trainer(make_vit(), eval_strategy="epoch")
    trainer.train()
    return trainer
