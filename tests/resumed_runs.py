"""What tests of resumed runs share: a run that ends in the middle, and two runs that must be the same."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from vecaf_hf import VeCAFTrainer


class Stopped(Exception):
    pass


class StopAfter(TrainerCallback):
    """Ends the run as a kill would: nothing of what follows a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Stopped


def losses(trainer: Trainer, *keys: str) -> list[tuple[int, float]]:
    return [(log["step"], log[key]) for log in trainer.state.log_history for key in keys if key in log]


def assert_same_run(one: VeCAFTrainer, other: VeCAFTrainer) -> None:
    others = other.model.state_dict()
    for name, values in one.model.state_dict().items():
        assert torch.equal(values, others[name]), name
    assert losses(one, "loss") == losses(other, "loss")
    assert losses(one, "eval_loss") == losses(other, "eval_loss")
    pairs = list(zip(one.selection_history, other.selection_history, strict=True))
    assert len(pairs) == 2
    assert all(torch.equal(mine.indices, yours.indices) for mine, yours in pairs)
    assert one.loop_records == other.loop_records
    if one.cea is not None and other.cea is not None:
        assert torch.equal(one.cea.augmenter.aligner.weight, other.cea.augmenter.aligner.weight)
    work, others_work = (trainer.meter.state_dict()["work"] for trainer in (one, other))
    for kind in ("score", "train", "evaluate"):
        assert work[kind]["samples"] == others_work[kind]["samples"], kind
