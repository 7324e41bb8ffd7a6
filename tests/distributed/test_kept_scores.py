"""Two processes with a folder of kept scores: the main one reads and writes it, and all get the same."""

from __future__ import annotations

import json
from pathlib import Path

from keep_scores import main
from own_processes import in_two_processes


def test_a_warm_run_of_two_processes_is_the_cold_one(tmp_path: Path) -> None:
    in_two_processes(main, tmp_path)
    one, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    cold, warm = one
    assert (cold["hits"], warm["hits"]) == ([0.0], [1.0])
    # Each process scores 31 of the pool's 61.
    assert cold["scored"] - warm["scored"] == 62
    for name in ("selected", "weights"):
        assert cold[name] == warm[name]
    assert [{**run, "rank": 1} for run in one] == other
    assert len(list((tmp_path / "scores").iterdir())) == 1
