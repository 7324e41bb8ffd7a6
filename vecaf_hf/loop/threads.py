"""All cores for a run on a CPU, where nobody chose.

`accelerate launch` (accelerate 1.15, commands/launch.py) sets OMP_NUM_THREADS=1 for a process that is not told to be on
a CPU, and torchrun (torch 2.14, distributed/run.py) does for several: the other cores then idle.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import psutil
import torch

logger = logging.getLogger(__name__)

VARIABLE = "OMP_NUM_THREADS"
OPTION = "num_cpu_threads_per_process"
# Words of launchers' commands. A shell is no launcher: the environment that the system tells of it lacks what its user
# exported.
LAUNCHERS = {
    "accelerate",
    "accelerate.commands.launch",
    "torchrun",
    "torch.distributed.run",
    "torch.distributed.launch",
}


def use_all_cores() -> None:
    """Give this process its share of the machine's cores, if a launcher and no user left it one thread."""
    share = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if share > torch.get_num_threads() and is_set_by_launcher():
        torch.set_num_threads(share)
        logger.warning(
            "Training on %d cores: the launcher had set %s=1. Set it yourself to have fewer.", share, VARIABLE
        )


def cores() -> int:
    """Cores that this process may run on; two threads of one core count once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def is_set_by_launcher() -> bool:
    """Whether this process has one thread by the environment, and what started it neither had that nor was told so."""
    if os.environ.get(VARIABLE) != "1":
        return False
    try:
        parent = psutil.Process().parent()
        words = [] if parent is None else parent.cmdline()
        if parent is None or LAUNCHERS.isdisjoint(Path(word).name for word in words):
            return False
        return VARIABLE not in parent.environ() and not any(OPTION in word.replace("-", "_") for word in words)
    except psutil.Error:
        # It belongs to somebody else, or has ended.
        return False
