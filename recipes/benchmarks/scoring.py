"""Throughput of the scoring pass, as a ratio to a bare forward loop of the same model over the same loader; and what a
loop boundary costs with each value of `rescore`, at half the resolution and in bfloat16, as a ratio to a full pass.

    python recipes/benchmarks/scoring.py [--rounds 5]
    python recipes/benchmarks/scoring.py --vit_small --image_size 224 --samples 100 --batch_size 50

EfficientNet-Lite0, or a ViT-S/16 with random weights, on the quickstart's Fashion-MNIST images. The scoring pass takes
embeddings, losses and labels out of each forward, checks them and keeps them; the bare loop throws all away. Both run
in alternating order, and so does the bare loop against itself: the noise.

A boundary's seconds are those of all that gives the candidates their scores (for proxy the fit), after the first one;
each round takes all ways in turn, and the first way a second time: the noise. What bfloat16 changes of embeddings and
selection is told beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from tqdm.auto import tqdm
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

sys.path.insert(0, str(Path(__file__).parents[1]))
from ratios import summary

from vecaf_hf import VeCAFTrainer
from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.options import parse
from vecaf_hf.cost import FULL_SIZE
from vecaf_hf.data.indexed import POOL_INDEX
from vecaf_hf.loop.selector import Past
from vecaf_hf.scoring.rescoring import RESCORING
from vecaf_hf.selection import Selection, SelectionOptions, find_strategy, run_strategy
from vecaf_hf.selection.candidates import Candidates

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def score(trainer: VeCAFTrainer) -> None:
    trainer.scorer.score(torch.arange(len(trainer.train_dataset)))


def bare(trainer: VeCAFTrainer) -> None:
    model: Any = trainer.model
    model.eval()
    with torch.inference_mode():
        for batch in trainer.pool.scoring_loader(range(len(trainer.train_dataset))):
            del batch[POOL_INDEX], batch[trainer.label_name]
            model(**send_to_device(batch, trainer.args.device))


def seconds(work: Any, trainer: VeCAFTrainer) -> float:
    start = time.perf_counter()
    work(trainer)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def against_bare_loop(trainer: VeCAFTrainer, rounds: int) -> None:
    ratios, noise = [], []
    for number in tqdm(range(rounds + 1), disable=None):
        order = (score, bare, bare) if number % 2 else (bare, score, bare)
        times = [seconds(work, trainer) for work in order]
        ours = times[order.index(score)]
        theirs, again = (time for work, time in zip(order, times, strict=True) if work is bare)
        if number > 0:  # the first round warms up
            ratios.append(theirs / ours)
            noise.append(theirs / again)
    rate = len(trainer.train_dataset) / statistics.median(times)
    print(summary("scoring / bare loop", ratios))
    print(summary("bare loop / itself", noise))
    print(f"about {rate:.0f} images/s")


def trained(pool_size: int, loop: int) -> torch.Tensor:
    """A tenth of the pool, another one in each loop."""
    return torch.randperm(pool_size, generator=torch.Generator().manual_seed(loop))[: pool_size // 10].sort().values


def boundary(loop: int, trainer: VeCAFTrainer) -> None:
    """The loop's candidates, after the loop before it has trained on a tenth of the pool."""
    assert trainer.loop is not None
    size, selector = len(trainer.train_dataset), trainer.loop.selector
    recorder = selector.training_losses
    if recorder is not None and loop > 0:
        device = trainer.args.device
        recorder.record(trained(size, loop - 1).to(device), torch.rand(size // 10, device=device), step=loop)
    earlier = [Selection(torch.tensor([0]))] * loop
    selector._candidates(Past(earlier, 0.0, partial(trained, size)), seed=loop)


def modes(trainers: dict[str, VeCAFTrainer], rounds: int) -> None:
    """The first of the trainers is the measure of the others."""
    first, *_ = trainers
    times: dict[str, list[float]] = {way: [] for way in (*trainers, "again")}
    forwards: dict[str, list[int]] = {way: [] for way in trainers}
    for loop in tqdm(range(rounds + 1), disable=None):
        for way in times:
            trainer = trainers[first if way == "again" else way]
            before = trainer.meter.work["score"].samples
            times[way].append(seconds(partial(boundary, loop), trainer))
            if way != "again":
                forwards[way].append(trainer.meter.work["score"].samples - before)
    print("\n| way | forwards at first | forwards later | FLOPs per forward | seconds later (quartiles) |")
    print("|---|---|---|---|---|")
    full = trainers[first].meter.forward_flops[FULL_SIZE]
    for way, spent in times.items():
        low, middle, high = statistics.quantiles(
            [ours / theirs for ours, theirs in zip(spent[1:], times[first][1:], strict=True)], n=4
        )
        if way == "again":
            print(f"| {first}, again | | | | {middle:.3f} ({low:.3f} {high:.3f}) |")
            continue
        at_first, *later = (count / forwards[first][0] for count in forwards[way])
        size = trainers[way].args.scoring_image_size
        flops = trainers[way].meter.forward_flops[FULL_SIZE if size is None else str(size)] / full
        cells = f"{at_first:.2f} | {statistics.mean(later):.2f} | {flops:.2f} | {middle:.3f} ({low:.3f} {high:.3f})"
        print(f"| {way} | {cells} |")


def agreement(exact: VeCAFTrainer, rounded: VeCAFTrainer) -> None:
    """What another precision makes of the embeddings, and of a tenth that is selected."""
    every = torch.arange(len(exact.train_dataset))
    pools = [trainer.scorer.score(every) for trainer in (exact, rounded)]
    theirs, ours = (pool.given("embeddings") for pool in pools)
    of = torch.cosine_similarity(theirs, ours)
    losses = [pool.given("losses") for pool in pools]
    chosen = [select(pool, 0) for pool in pools]
    by_chance = len(chosen[0] & select(pools[0], 1)) / len(chosen[0])
    print(f"embeddings' cosine to float32's: mean {of.mean():.5f}, lowest {of.min():.5f}")
    print(f"losses' correlation with float32's: {torch.corrcoef(torch.stack(losses))[0, 1]:.5f}")
    print(f"the same selected: {len(chosen[0] & chosen[1]) / len(chosen[0]):.3f}; by another seed {by_chance:.3f}")


def select(pool: Candidates, seed: int) -> set[int]:
    """Indices of a tenth, by `ods`."""
    found = run_strategy(find_strategy("ods"), pool, len(pool) // 10, SelectionOptions(), seed)
    return set(found.indices.tolist())


def make_vit_small(folder: str, image_size: int) -> str:
    """A ViT-S/16 with random weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    sizes |= {"image_size": image_size, "num_labels": 10}
    ViTForImageClassification(ViTConfig(**sizes)).save_pretrained(folder)
    ViTImageProcessor(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    return f" --model_name_or_path {folder}"


def main(rounds: int, samples: int, image_size: int, batch_size: int, vit_small: bool) -> None:
    ways = {name: f"--rescore {name}" for name in RESCORING}
    ways["half resolution"] = f"--scoring_image_size {image_size // 2}"
    ways["bfloat16"] = "--scoring_bf16 true"
    with tempfile.TemporaryDirectory() as folder:
        trainers, model = {}, make_vit_small(f"{folder}/model", image_size) if vit_small else ""
        for number, (way, option) in enumerate(ways.items()):
            options = f"--config {QUICKSTART} --output_dir {folder}/{number} --text_encoder none {option}"
            options += f" --max_train_samples {samples} --image_size {image_size} --disable_tqdm true{model}"
            trainers[way], _ = build_trainer(*parse({}, f"{options} --scoring_batch_size {batch_size}".split()))
        against_bare_loop(trainers["full"], rounds)
        agreement(trainers["full"], trainers["bfloat16"])
        for trainer in trainers.values():
            trainer.begin_run()
        modes(trainers, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=250)
    parser.add_argument("--vit_small", action="store_true")
    given = parser.parse_args()
    main(given.rounds, given.samples, given.image_size, given.batch_size, given.vit_small)
