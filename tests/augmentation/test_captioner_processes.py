"""Two real processes (gloo, on the CPU) caption what one does, each its share; a failure of one ends both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_captioners as tiny
import torch
from accelerate import Accelerator
from own_processes import in_two_processes
from PIL import Image

from vecaf_hf import Captioner
from vecaf_hf.cost import CostMeter
from vecaf_hf.text import captioning
from vecaf_hf.text.captioning import PoolCaptions

PICTURES = tiny.pictures(7)
UNREADABLE = 4


def load(position: int) -> Image.Image:
    if position == UNREADABLE:
        raise OSError("truncated")
    return PICTURES[position]


def caption(blip: str, cache: Path, accelerator: Accelerator) -> dict[str, Any]:
    captioner, meter = Captioner(blip, cache_dir=cache, max_new_tokens=6), CostMeter()
    made = PoolCaptions(captioner, load)
    for asked in ([6, 0, 3], [*range(7)]):
        made.add(torch.tensor(asked), accelerator, meter, hidden=True)
    rounds = [[positions.tolist(), captions] for positions, captions in made.rounds]
    return {"rounds": rounds, "samples": meter.work["caption"].samples, "own": captioner.forwards}


def breaks(*args: Any) -> None:
    raise ArithmeticError("out of words")


def main(blip: str, out: Path) -> None:
    torch.set_num_threads(1)
    # Three exchanges in the second round.
    captioning.SHARED_AT_ONCE = 1
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    found = caption(blip, out / "cache", accelerator)
    if rank == 1:
        captioning.captions_of = breaks
    try:
        caption(blip, out / "cache", accelerator)
    except (ArithmeticError, RuntimeError) as error:
        found["error"] = repr(error)
    (out / f"{rank}.json").write_text(json.dumps(found))


def test_two_processes_caption_what_one_does(tmp_path: Path) -> None:
    blip = tiny.write(tiny.blip, tmp_path / "blip")
    in_two_processes(main, blip, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    alone = caption(blip, tmp_path / "other", Accelerator(cpu=True))
    assert alone["rounds"][1][0] == [1, 2, 4, 5] and alone["rounds"][1][1][2] is None
    for rank in ranks:
        assert (rank["rounds"], rank["samples"]) == (alone["rounds"], 6)
    assert [rank["own"] for rank in ranks] == [3, 3]
    assert ranks[0]["error"] == "RuntimeError('captioning failed in process 1, and its message says why')"
    assert ranks[1]["error"] == "ArithmeticError('out of words')"
