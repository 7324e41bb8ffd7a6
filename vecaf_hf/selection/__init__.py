"""Choosing samples: arrays in, a `Selection` out. `STRATEGIES` has all ways to choose: name -> `Strategy`.

Knows nothing of Trainer, models or images. `ods.py` is the paper's method.
"""

from importlib import import_module

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import STRATEGIES, Strategy, find_strategy, strategy
from vecaf_hf.selection.run import run_strategy, select
from vecaf_hf.selection.selection import Selection

# Each file registers its strategies, which are listed in this order. A new file is one line here.
for _file in (
    "ods",
    "chance",
    "training_losses",
    "scores",
    "k_center",
    "badge",
    "alfa_mix",
    "jtt",
):
    import_module(f"{__name__}.{_file}")

__all__ = [
    "STRATEGIES",
    "Candidates",
    "Selection",
    "SelectionOptions",
    "Strategy",
    "find_strategy",
    "run_strategy",
    "select",
    "strategy",
]
