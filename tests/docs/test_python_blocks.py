"""The pages' blocks of Python run, on stand-ins for what the reader has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from datasets import Dataset
from markdown_pages import PAGES, ROOT, python_blocks
from transformers import PreTrainedModel, ViTImageProcessor

import vecaf_hf
from vecaf_hf import CEACallback, TextEncoder, VeCAFArguments, VeCAFTrainer
from vecaf_hf.cli.building import collate

# What makes the first block's run a matter of seconds: sizes, and nothing else.
SMALL = {"max_steps": 6, "per_device_train_batch_size": 8, "selection_fraction": 0.1, "use_cpu": True}
QUIET = {"report_to": "none", "disable_tqdm": True}


def block_with(text: str) -> str:
    """README's one block that has this text."""
    (found,) = [block for block in python_blocks(ROOT / "README.md") if text in block]
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, text_encoder: TextEncoder, tmp_path: Path) -> list[dict[str, Any]]:
    """Blocks run in an empty folder, at small sizes, and MiniLM stands in for whatever text encoder they name."""
    monkeypatch.chdir(tmp_path)
    asked: list[dict[str, Any]] = []

    def arguments(**options: Any) -> VeCAFArguments:
        asked.append(options)
        return VeCAFArguments(**{**options, **SMALL, **QUIET})

    def callback(*args: Any, **options: Any) -> CEACallback:
        return CEACallback(*args, **{**options, "text_encoder": text_encoder})

    monkeypatch.setattr(vecaf_hf, "VeCAFArguments", arguments)
    monkeypatch.setattr(vecaf_hf, "CEACallback", callback)
    return asked


def test_first_block_trains_and_pushes(
    small: list[dict[str, Any]],
    make_vit: Callable[..., PreTrainedModel],
    train: Dataset,
    validation: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push = create_autospec(VeCAFTrainer.push_to_hub)
    monkeypatch.setattr(VeCAFTrainer, "push_to_hub", push)
    names: dict[str, Any] = {
        "model": make_vit(),
        "train": train,
        "train_plain": train,
        "validation": validation,
        "processor": ViTImageProcessor(),
        "collate": collate,
        "metrics": lambda prediction: {"accuracy": 0.0},
    }
    exec(compile(block_with("VeCAFTrainer"), "README.md", "exec"), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == SMALL["max_steps"]
    assert len(trainer.selection_history) == small[0]["num_loops"]
    assert [record.selected for record in trainer.loop_records] == [12, 12, 12]
    assert trainer.cea is not None and trainer.cea.encoder.forwards > 0
    push.assert_called_once_with(trainer)


def test_second_block_selects() -> None:
    generator = torch.Generator().manual_seed(0)
    names: dict[str, Any] = {
        "embeddings": torch.randn(1000, 8, generator=generator),
        "losses": torch.rand(1000, generator=generator),
        "labels": torch.arange(1000) % 10,
    }
    exec(compile(block_with("import select"), "README.md", "exec"), names)
    assert names["chosen"].indices.unique().shape == (600,)


def test_no_block_is_left_out() -> None:
    found = [block for page in PAGES for block in python_blocks(page)]
    assert found == [block_with("VeCAFTrainer"), block_with("import select")]
