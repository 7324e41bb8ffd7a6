"""A recipe as a user starts it, that gets signals at a known step: test_interrupted.py starts it.

In the environment SIGNALS has `step:signal:rank` (a signal by its number, to the process group with `group` in place of
a rank), one or more parted by blanks: it comes while that step is trained. A second one of a step comes at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import finetune

build = finetune.build_trainer


class Signals(TrainerCallback):
    """Sends them."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for step, number, who in (one.split(":") for one in os.environ.get("SIGNALS", "").split()):
            if int(step) == state.global_step + 1:
                if who == "group":
                    # By another process: loaders' workers take a SIGTERM of their parent's for a farewell.
                    subprocess.run(["kill", f"-{number}", "--", f"-{os.getpgrp()}"])
                elif int(who) == args.process_index:
                    os.kill(os.getpid(), int(number))


def built(*options: Any) -> Any:
    trainer, test = build(*options)
    trainer.add_callback(Signals())
    return trainer, test


if __name__ == "__main__":
    torch.set_num_threads(1)
    finetune.build_trainer = built
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finetune.main({})
