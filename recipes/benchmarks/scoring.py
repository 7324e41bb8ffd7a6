"""Throughput of the scoring pass, as a ratio to a bare forward loop of the same model over the same loader.

    python recipes/benchmarks/scoring.py [--rounds 5]

EfficientNet-Lite0 on the quickstart's Fashion-MNIST images. The scoring pass takes embeddings, losses and labels out of
each forward, checks them and keeps them; the bare loop throws all away. Both run in alternating order, and so does the
bare loop against itself: the noise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from finetune import build_trainer
from options import parse
from ratios import summary

from vecaf_hf import VeCAFTrainer
from vecaf_hf.data.indexed import POOL_INDEX

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def score(trainer: VeCAFTrainer) -> None:
    trainer._score(torch.arange(len(trainer.train_dataset)))


def bare(trainer: VeCAFTrainer) -> None:
    model: Any = trainer.model
    model.eval()
    with torch.inference_mode():
        for batch in trainer._pool.scoring_loader(range(len(trainer.train_dataset))):
            del batch[POOL_INDEX], batch[trainer.label_name]
            model(**batch)


def seconds(work: Any, trainer: VeCAFTrainer) -> float:
    start = time.perf_counter()
    work(trainer)
    return time.perf_counter() - start


def main(rounds: int, samples: int, image_size: int, batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = f"--config {QUICKSTART} --output_dir {folder} --text_encoder none --max_train_samples {samples}"
        options += f" --image_size {image_size} --scoring_batch_size {batch_size} --disable_tqdm true"
        trainer, _ = build_trainer(*parse({}, options.split()))
        ratios, noise = [], []
        for number in tqdm(range(rounds + 1), disable=None):
            order = (score, bare, bare) if number % 2 else (bare, score, bare)
            times = [seconds(work, trainer) for work in order]
            ours = times[order.index(score)]
            theirs, again = (time for work, time in zip(order, times, strict=True) if work is bare)
            if number > 0:  # the first round warms up
                ratios.append(theirs / ours)
                noise.append(theirs / again)
        rate = samples / statistics.median(times)
    print(summary("scoring / bare loop", ratios))
    print(summary("bare loop / itself", noise))
    print(f"about {rate:.0f} images/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=250)
    given = parser.parse_args()
    main(given.rounds, given.samples, given.image_size, given.batch_size)
