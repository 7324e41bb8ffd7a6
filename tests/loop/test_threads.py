"""A launcher's one thread is not a choice; a user's is."""

import os
import subprocess
import sys
from pathlib import Path

from every_case import every_case

ROOT = Path(__file__).parents[2]
# Launched with one thread, as `accelerate launch` does it.
LAUNCHER = """
import os, subprocess, sys
sys.exit(subprocess.call([sys.executable, "-c", sys.argv[1]], env={**os.environ, "OMP_NUM_THREADS": "1"}))
"""
# In place of torch, whose import takes seconds; that torch itself heeds the variable, the first case shows.
STAND_IN = """
import os, sys, types
torch = sys.modules["torch"] = types.ModuleType("torch")
torch.count = int(os.environ["OMP_NUM_THREADS"])
torch.get_num_threads = lambda: torch.count
torch.set_num_threads = lambda count: setattr(torch, "count", count)
"""
# The module alone, which takes a moment; its package takes all of transformers along.
RUN = f"""
import runpy, torch
threads = runpy.run_path({str(ROOT / "vecaf_hf" / "loop" / "threads.py")!r})
threads["cores"].__globals__["cores"] = lambda: 6
threads["use_all_cores"]()
print(torch.get_num_threads())
"""


@every_case(
    ("chosen", "words", "processes", "expected"),
    [
        (None, ["accelerate"], "1", 6),
        (None, ["torchrun"], "2", 3),
        ("1", ["accelerate"], "1", 1),
        (None, ["accelerate", "--num_cpu_threads_per_process=1"], "1", 1),
        # A shell whose user exported it: the system tells the environment that the shell began with.
        (None, ["bash"], "1", 1),
    ],
)
def test_all_cores_where_nobody_chose(chosen, words, processes, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"LOCAL_WORLD_SIZE": processes} | ({"OMP_NUM_THREADS": chosen} if chosen else {})
    run = RUN if expected == 6 else STAND_IN + RUN
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, run, *words], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == expected, done.stderr
    assert ("Training on" in done.stderr) == (expected > 1)
