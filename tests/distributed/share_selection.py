"""Selects in all processes, and again in this one alone: each writes `rank<r>.json` in the folder given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vecaf_hf.agreement import Together, done_together
from vecaf_hf.selection import SelectionOptions, find_strategy, run_strategy
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.processes import ALONE

STRATEGIES = {
    "ods": {"allocation": "global"},
    "ods by class": {"allocation": "class"},
    "activeft": {},
    "k_center": {},
}


def pool() -> Candidates:
    """Of 901 samples in 6 classes of unequal size, the last third are there before, and so are many of one."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(901)
    labels = (rows % 7 % 6).clamp(max=5)
    embeddings = torch.randn(6, 90, generator=generator)[labels] + torch.randn(901, 90, generator=generator)
    embeddings = embeddings[rows % 600]
    embeddings[::9] = embeddings[0]
    return Candidates(rows, embeddings=embeddings, losses=torch.rand(901, generator=generator), labels=labels)


def selected(name: str, processes: Any) -> dict[str, Any]:
    options = SelectionOptions(strategy=name.split()[0], **STRATEGIES[name])  # type: ignore[arg-type]
    found = run_strategy(find_strategy(options.strategy), replace(pool(), processes=processes), 70, options, 0)
    return {"indices": found.indices.tolist(), "info": found.info}


def fails(together: Together) -> None:
    """In one process, while the other waits for its part."""
    if together.rank == 1:
        raise ArithmeticError("this process always fails")
    together.gather(torch.zeros(3))


def comes_apart(together: Together) -> None:
    if together.rank == 1:
        together.gather(torch.zeros(3))
    else:
        together.sum(torch.zeros(3))


def main(place: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    told: dict[str, Any] = {"world": accelerator.num_processes}
    for name in STRATEGIES:
        shared = done_together(accelerator, lambda together, name=name: selected(name, together))  # type: ignore[misc]
        told[name] = [shared, selected(name, ALONE)]
    told["empty"] = done_together(accelerator, lambda one: one.gather(torch.arange(3 * one.rank)).tolist())
    for work in (fails, comes_apart):
        try:
            done_together(accelerator, work)
        except Exception as error:
            told[work.__name__] = repr(error)
    (place / f"rank{accelerator.process_index}.json").write_text(json.dumps(told))
