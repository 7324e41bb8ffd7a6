"""The pages' blocks of Python run, on small stand-ins for what is on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from markdown_pages import PAGES, ROOT, python_blocks
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel, ViTImageProcessor

import vecaf_hf
from vecaf_hf import VeCAFArguments

# What makes the first block's run a matter of seconds: sizes, and nothing else.
SIDE = {"height": 32, "width": 32}
SMALL = {"max_steps": 6, "per_device_train_batch_size": 8, "selection_fraction": 0.1, "use_cpu": True}
QUIET = {"report_to": "none", "disable_tqdm": True}


def block_with(text: str) -> str:
    """README's one block that has this text."""
    (found,) = [block for block in python_blocks(ROOT / "README.md") if text in block]
    return found


def test_first_block_trains_as_it_stands(
    make_vit: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only the Hub's model is another one, and smaller; no name is undefined, and the strategy is the default."""
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", lambda name: ViTImageProcessor(size=SIDE))
    monkeypatch.setattr(AutoModelForImageClassification, "from_pretrained", lambda name, num_labels: make_vit())
    asked: list[dict[str, Any]] = []

    def arguments(**options: Any) -> VeCAFArguments:
        asked.append(options)
        return VeCAFArguments(**{**options, **SMALL, **QUIET, "output_dir": str(tmp_path)})

    monkeypatch.setattr(vecaf_hf, "VeCAFArguments", arguments)
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(compile(block_with("VeCAFTrainer"), "README.md", "exec"), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == SMALL["max_steps"]
    assert trainer.args.strategy == VeCAFArguments.strategy and "strategy" not in asked[0]
    assert {record.selected for record in trainer.loop_records} == {len(trainer.train_dataset) // 10}
    assert "eval_loss" in trainer.evaluate()


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
    # Tested beside their pages: test_conditions_page.py, test_large_pools.py.
    elsewhere = ("conditions.md", "large_pools.md")
    found = [block for page in PAGES if page.name not in elsewhere for block in python_blocks(page)]
    assert found == [block_with("VeCAFTrainer"), block_with("import select"), block_with("@strategy")]
