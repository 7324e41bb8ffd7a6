"""Processes that were launched together and each take themselves for the only one are refused, with what to set."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from own_processes import environment
from transformers import PreTrainedModel

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]

SCRIPT = """
import os, sys
from torch import nn
from transformers import Trainer, TrainingArguments
from vecaf_hf import VeCAFTrainer

args = TrainingArguments(sys.argv[1], report_to="none", use_cpu=sys.argv[2] == "True")
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(4, 2)
    def forward(self, pixel_values, labels=None):
        return {"logits": self.classifier(pixel_values)}
pool = [{"pixel_values": [0.0] * 4, "labels": 0}] * 8
Trainer(Model(), args, train_dataset=pool)
try:
    VeCAFTrainer(Model(), args, train_dataset=pool)
except ValueError as error:
    said = f"refused: {error}"
else:
    said = f"together: {args.world_size}"
# A file each: what two processes print may come out in one another.
open(f"{sys.argv[1]}/said_{os.environ['RANK']}", "w").write(said)
"""


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_a_world_larger_than_the_trainers(
    make_vit: MakeModel, make_trainer: MakeTrainer, train: Dataset, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trainer = make_trainer(make_vit())
    trainer.train_dataset = train.select(range(40))
    # With use_cpu=True and this from the start, the processes would have looked for each other.
    monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match=f"{name} says that 2 processes .* knows of 1: .*use_cpu=True"):
        trainer.get_train_dataloader()
    monkeypatch.setenv(name, "1")
    trainer.get_train_dataloader()


@pytest.mark.parametrize("use_cpu", [False, True])
def test_torchrun(tmp_path: Path, use_cpu: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    own = {name: value for name, value in environment(tmp_path).items() if name != "ACCELERATE_USE_CPU"}
    done = subprocess.run(
        [*launch, str(script), str(tmp_path), str(use_cpu)], capture_output=True, text=True, env=own, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = "together: 2" if use_cpu else "refused: WORLD_SIZE says that 2 processes were launched"
    for rank in range(2):
        assert (tmp_path / f"said_{rank}").read_text().startswith(expected)
