"""README's block on a strategy of one's own runs as it stands."""

import torch
from markdown_pages import ROOT, python_blocks

from vecaf_hf.selection import STRATEGIES, select


def test_the_block_registers_a_strategy() -> None:
    (block,) = [one for one in python_blocks(ROOT / "README.md") if "@strategy" in one]
    try:
        exec(block, {"__name__": "block"})
        losses = torch.tensor([0.1, 3.0, 0.2, 2.0])
        assert select(torch.randn(4, 2), losses, budget=2, strategy="hardest").indices.tolist() == [1, 3]
    finally:
        STRATEGIES.pop("hardest", None)
