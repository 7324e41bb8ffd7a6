"""Trains a recipe with `restyle` in several processes, each of which would train another style network, and writes what
it has: `rank<r>.json` in the folder given after the file of options. test_restyled_pool.py starts it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "recipes"))
import restyling
from options import parse
from styling import StyleNetwork

from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cost import CostMeter

RANK = int(os.environ["RANK"])

train_style, restyle = restyling.train_style, StyleNetwork.restyle
made: list[int] = []


def trained(pool: Any, column: str, options: Any, meter: CostMeter, *rest: Any) -> StyleNetwork:
    network = train_style(pool, column, replace(options, seed=RANK), meter, *rest)
    made.append(meter.work["auxiliary"].samples)
    return network


def restyled(network: StyleNetwork, images: Any) -> Any:
    made.append(len(images))
    return restyle(network, images)


if __name__ == "__main__":
    torch.set_num_threads(1)
    restyling.train_style, StyleNetwork.restyle = trained, restyled  # type: ignore[method-assign]
    trainer, _ = build_trainer(*parse({}, ["--config", sys.argv[1]]))
    images = [image.tobytes() for image in trainer.train_dataset.with_format(None)["image"]]
    trainer.train()
    work = trainer.meter.work["auxiliary"]
    found = {"images": [hashlib.sha256(image).hexdigest() for image in images], "made": made}
    found["counted"] = [work.samples, work.flops]
    Path(sys.argv[2], f"rank{RANK}.json").write_text(json.dumps(found))
