"""Tiny checkpoints, and a style that one of them learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from styling import StyleNetwork, StyleOptions, train_style
from tiny_towers import save_clip, save_timm

PROMPT = "it's a snowy day"


@pytest.fixture(autouse=True, scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Text embeddings are kept in a folder of the test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def content(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_timm(tmp_path_factory.mktemp("content"))


@pytest.fixture(scope="session")
def options(clip: str, content: str) -> Callable[..., StyleOptions]:
    """A few steps on small crops; every option can be given."""

    def make(**given: Any) -> StyleOptions:
        small = {"image_size": 16, "batch_size": 4, "steps": 3, "views": 2}
        towers = {"clip": clip, "content_model": content, "content_layers": ["layer2", "layer3"]}
        return StyleOptions(**{"prompt": PROMPT, **small, **towers, **given})

    return make


@pytest.fixture(scope="session")
def pictures() -> Dataset:
    """Twelve pictures of several sizes, a third of them grey, with labels and captions."""
    generator = np.random.default_rng(0)
    images = []
    for index, (width, height) in enumerate([(20, 20), (31, 17), (12, 25), (20, 20)] * 3):
        coarse = generator.integers(0, 256, (4, 4, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        images.append(picture.convert("L") if index % 3 == 0 else picture)
    columns = {
        "image": images,
        "label": [index % 3 for index in range(12)],
        "caption": [f"picture {index}" for index in range(12)],
    }
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b", "c"]), caption=datasets.Value("string")
    )
    return Dataset.from_dict(columns, features=features)


@pytest.fixture(scope="session")
def network(pictures: Dataset, options: Callable[..., StyleOptions]) -> StyleNetwork:
    return train_style(pictures, "image", options(learning_rate=1e-2, steps=6), device="cpu", disable_tqdm=True)
