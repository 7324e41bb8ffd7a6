"""A disk on which a checkpoint finds no room: the run says so, and goes on later from its last whole checkpoint."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback

from vecaf_hf import VeCAFTrainer

# Bytes that a file can have: less than the model's weights or its optimizer's state.
LIMIT = 200_000


class FillDisk(TrainerCallback):
    """From this step on no large file can be written: the system refuses it as it does on a full disk."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))


@pytest.fixture
def limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_run_whose_disk_is_full_resumes_once_there_is_room(
    make_vit: Callable[..., PreTrainedModel],
    make_trainer: Callable[..., VeCAFTrainer],
    tmp_path: Path,
    limits: None,
) -> None:
    def trainer(folder: str, seed: int, *callbacks: TrainerCallback) -> VeCAFTrainer:
        saving = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
        model = make_vit(seed, hidden_size=64, intermediate_size=256, hidden_dropout_prob=0.1)
        return make_trainer(model, list(callbacks), output_dir=str(tmp_path / folder), **saving)

    whole = trainer("whole", 0)
    whole.train()

    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*checkpoint-6 .*GB are free .*save_total_limit"):
        trainer("full", 0, FillDisk(5)).train()
    resource.setrlimit(resource.RLIMIT_FSIZE, room)
    # Not the remains of the new one, and the older one still.
    assert [path.name for path in (tmp_path / "full").glob("checkpoint-*")] == ["checkpoint-4"]

    resumed = trainer("full", 1)
    resumed.train(resume_from_checkpoint=True)
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name
