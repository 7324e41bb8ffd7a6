"""Choosing samples: arrays in, a `Selection` out. `STRATEGIES` has the registered ways to choose: name -> `Strategy`.

Knows nothing of Trainer, models or images: the registry does no more than name what some strategies
learn of them."""

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import STRATEGIES, Strategy, find_strategy, run_strategy, select
from vecaf_hf.selection.selection import Selection

__all__ = [
    "STRATEGIES",
    "Candidates",
    "Selection",
    "SelectionOptions",
    "Strategy",
    "find_strategy",
    "run_strategy",
    "select",
]
