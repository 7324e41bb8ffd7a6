"""Two processes with a folder of kept scores: the main one reads and writes it, and all get the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from launching import TIMEOUT, torchrun
from own_processes import environment

SCRIPT = Path(__file__).parent / "keep_scores.py"


def test_a_warm_run_of_two_processes_is_the_cold_one(tmp_path: Path) -> None:
    command = [*torchrun(2), str(SCRIPT), str(tmp_path)]
    ended = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == 0, ended.stderr[-8000:]
    one, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    cold, warm = one
    assert (cold["hits"], warm["hits"]) == ([0.0], [1.0])
    # Each process scores 31 of the pool's 61.
    assert cold["scored"] - warm["scored"] == 62
    for name in ("selected", "weights"):
        assert cold[name] == warm[name]
    assert [{**run, "rank": 1} for run in one] == other
    assert len(list((tmp_path / "scores").iterdir())) == 1
