"""A loader that is only looked at, and a run that fails before its first step, take no other run's place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback

from vecaf_hf import VeCAFTrainer

MakeModel = Callable[..., PreTrainedModel]
MakeTrainer = Callable[..., VeCAFTrainer]


class Fails(TrainerCallback):
    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        raise InterruptedError("before the first step")


@pytest.mark.parametrize("how", ["looked at", "failed"])
def test_the_run_before_is_still_resumed(
    make_vit: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, how: str
) -> None:
    options = {
        "output_dir": str(tmp_path / "run"),
        "strategy": "balanced",
        "max_steps": 6,
        "num_loops": 3,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    whole = make_trainer(make_vit(), **options)
    whole.train()
    for folder in ("checkpoint-6",):
        for path in (tmp_path / "run" / folder).iterdir():
            path.unlink()
        (tmp_path / "run" / folder).rmdir()
    other = make_trainer(make_vit(), **options)
    if how == "looked at":
        assert len(other.get_train_dataloader()) > 0
    else:
        other.add_callback(Fails())
        with pytest.raises(InterruptedError):
            other.train()
    resumed = make_trainer(make_vit(), **options)
    resumed.train(resume_from_checkpoint=True)
    assert [record.loop for record in resumed.loop_records] == [0, 1, 2]
    # It went on at step 4: what came before is in its checkpoint, not trained again.
    assert resumed.meter.work["train"].samples == whole.meter.work["train"].samples
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name
    assert [log["step"] for log in resumed.state.log_history] == [log["step"] for log in whole.state.log_history]
