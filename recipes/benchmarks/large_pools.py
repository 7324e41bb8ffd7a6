"""What selecting in a pool beyond one machine would lose and cost, by simulation: docs/large_pools.md.

    python recipes/benchmarks/large_pools.py [--size 131072] [--seeds 5]

Synthetic embeddings: clusters of long-tailed sizes, losses of long tails. Three parts: candidates that are a random
part of the pool; cells by k-means, from which is selected one at a time; time and memory of each stage in pools of
growing size, and of today's trainer over images that are made as they are asked for, each in a process of its own. Two
minutes of one thread. It prints its tables, and writes results, figure and the page's tables anew; at another size
or number of seeds it prints alone.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PrinterCallback, ViTConfig, ViTForImageClassification

from vecaf_hf import VeCAFArguments, VeCAFTrainer
from vecaf_hf.cli.terminal import Parser, run_in_terminal
from vecaf_hf.selection.allocation import shares
from vecaf_hf.selection.candidate_set import candidate_set
from vecaf_hf.selection.candidates import Turn
from vecaf_hf.selection.objective import mean_log_sum, objective
from vecaf_hf.selection.similarity import nearest, unit_rows
from vecaf_hf.selection.weighting import loss_weights, target_distribution

sys.path.insert(0, str(Path(__file__).parent))
from large_pools_page import tables as tables_of
from large_pools_page import write_document
from large_pools_plan import cells_for
from selection import peak, reset_peak, resident
from sharded_pool import (
    DIMENSION,
    OPTIONS,
    SyntheticPool,
    cell_of_each,
    claims_of,
    fitted_centres,
    select_by_cell,
    selected,
    synthetic,
    write_shards,
)

T = TypeVar("T")
Results = dict[str, Any]

SIZE, SEEDS = 2**17, 5
SELECTED = (0.002, 0.01)
FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
CELLS = (8, 32, 128)
# Of the pool, those that a selection's quality is measured on.
EVALUATED = 2**15
# Parts of SIZE whose time and memory are measured, and the part of the pool that is selected there.
GROWTH = (0.5, 1, 2, 4, 8)
GROWTH_SELECTED = 0.002
BOOKKEPT = (2 * 10**6, 8 * 10**6)
# What takes a process long to import.
HEAVY = ["vecaf_hf.cli.building", "sklearn.cluster", "transformers.models.vit.modeling_vit"]


# --- A selection, and what it is worth ---


def quality(pool: SyntheticPool, chosen: Tensor) -> dict[str, float]:
    """J of Eq. 7 with the selected samples as centroids, the selected losses' mean over the pool's, and the pool's mean
    cosine to the nearest selected sample (coverage); J and coverage on the first EVALUATED samples of the pool."""
    seen = torch.arange(min(len(pool), EVALUATED))
    centroids = unit_rows(pool.embeddings, chosen)
    similarity, _ = nearest(unit_rows(pool.embeddings, seen), centroids)
    pulled = target_distribution(loss_weights(pool.losses[seen], OPTIONS.loss_weighting)) @ similarity
    log_sum = mean_log_sum(centroids, OPTIONS.temperature)
    return {
        "objective": float(objective(pulled, log_sum, OPTIONS.temperature, OPTIONS.diversity_weight)),
        "loss": float(pool.losses[chosen].mean() / pool.losses.mean()),
        "coverage": float(similarity.mean()),
    }


def averaged(qualities: Sequence[dict[str, float]]) -> Results:
    """Each measure's mean over the seeds, and its standard error."""
    found = {name: torch.tensor([one[name] for one in qualities], dtype=torch.float64) for name in qualities[0]}
    return {
        name: [float(values.mean()), float(values.std() / len(values) ** 0.5) if len(values) > 1 else 0.0]
        for name, values in found.items()
    }


def by_fraction(pool: SyntheticPool, part: float, fraction: float, seeds: int) -> Results:
    """Selections from a random part of the pool."""
    budget, count, found = round(part * len(pool)), round(fraction * len(pool)), []
    for seed in range(seeds):
        rows = candidate_set(len(pool), max(budget, count), None, torch.Generator().manual_seed(seed))
        chosen = selected(pool.embeddings[rows], pool.losses[rows], budget, seed)
        found.append(quality(pool, rows[chosen.indices]))
    return {"selected": part, "fraction": fraction, **averaged(found)}


def by_chance(pool: SyntheticPool, part: float, seeds: int) -> Results:
    """Random selections."""
    drawn = [torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)) for seed in range(seeds)]
    return {"selected": part, **averaged([quality(pool, one[: round(part * len(pool))]) for one in drawn])}


def by_cell(pool: SyntheticPool, part: float, count: int, share: str, seeds: int) -> Results:
    """Selections in cells, each seed with cells of its own."""
    budget, found, largest = round(part * len(pool)), [], []
    for seed in range(seeds):
        cells = cell_of_each(pool.embeddings, fitted_centres(pool.embeddings, count, seed))
        claims, sizes = claims_of(pool, cells, count, share)
        with tempfile.TemporaryDirectory() as folder:
            files = write_shards(pool, cells, count, Path(folder))
            chosen, _ = select_by_cell(files, shares(budget, claims, sizes, Turn(seed)), seed)
        found.append(quality(pool, chosen))
        largest.append(int(sizes.max()) * count / len(pool))
    return {
        "selected": part,
        "cells": count,
        "share": share,
        "largest": sum(largest) / seeds,
        **averaged(found),
    }


# --- Time and memory, in a process of one pool ---


def timed(work: Callable[[], T], seconds: Results, stage: str) -> T:
    """What the work returns; its CPU seconds, which a busy machine does not change much, under the stage's name."""
    start = time.process_time()
    done = work()
    seconds[stage] = time.process_time() - start
    return done


def grown(size: int, cells: int) -> Results:
    """CPU seconds of each stage in a pool of this size; peak memory of the selection by cell, or of that in the whole
    pool where it is one cell, above what was there before."""
    torch.set_num_threads(1)
    budget = round(GROWTH_SELECTED * size)
    seconds: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        pool = synthetic(size)
        centres = timed(partial(fitted_centres, pool.embeddings, cells, 0), seconds, "fit cells")
        assigned = timed(partial(cell_of_each, pool.embeddings, centres), seconds, "assign to cells")
        files = timed(partial(write_shards, pool, assigned, cells, Path(folder)), seconds, "store")
        generator = torch.Generator().manual_seed(0)
        timed(partial(candidate_set, size, size // 10, None, generator), seconds, "draw candidates")
        claims, sizes = claims_of(pool, assigned, cells, "size")
        budgets = shares(budget, claims, sizes, Turn(0))
        del pool, assigned
        warm_up()
        before = resident()
        reset_peak("cpu")
        _, flops = timed(partial(select_by_cell, files, budgets, 0), seconds, "select")
    largest = int(sizes.max())
    found = {"size": size, "cells": cells, "budget": budget, "largest": largest, "share": int(budgets[sizes.argmax()])}
    return found | {"seconds": seconds, "flops": flops, "peak": (peak("cpu") - before) * 2**30}


def warm_up() -> None:
    """What the first selection of a process loads is no part of the others."""
    selected(torch.randn(600, DIMENSION), torch.rand(600), budget=20, seed=0)


class MadeImages(torch.utils.data.Dataset):
    """A pool of any size that takes no memory: noise and a class by position."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": pixels, "labels": index % 10}


def bookkeeping(size: int) -> Results:
    """CPU seconds and memory of a run of two loops in which all is small but the pool: 200 candidates, 20 selected."""
    torch.set_num_threads(1)
    shape: Results = {"num_labels": 10, "image_size": 32, "patch_size": 16, "hidden_size": 16}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTForImageClassification(ViTConfig(**shape))
    seconds: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        words: Results = {"strategy": "ods", "rescore": "sampled", "scoring_fraction": 200 / size}
        words |= {"selection_budget": 20, "num_loops": 2, "max_steps": 4, "use_cpu": True, "disable_tqdm": True}
        words |= {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "dataloader_pin_memory": False}
        before = resident()
        reset_peak("cpu")
        args = VeCAFArguments(output_dir=folder, remove_unused_columns=False, **words)
        trainer = VeCAFTrainer(model=model, args=args, train_dataset=MadeImages(size))
        trainer.remove_callback(PrinterCallback)
        timed(trainer.train, seconds, "train")
    return {"size": size, "seconds": seconds["train"], "peak": (peak("cpu") - before) * 2**30}


def alone(work: Callable[..., Results], *given: int) -> Results:
    """What the work finds in a process of its own: what others had in memory is no part of its peak."""
    context = get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(work, *given).result()


# --- The command ---


def simulate(size: int, seeds: int) -> Results:
    pool = synthetic(size)
    work: dict[str, list[Callable[[], Results]]] = {
        "chance": [partial(by_chance, pool, part, seeds) for part in SELECTED],
        "fractions": [partial(by_fraction, pool, part, one, seeds) for part in SELECTED for one in FRACTIONS],
        "cells": [
            partial(by_cell, pool, SELECTED[-1], count, share, seeds) for count in CELLS for share in ("size", "loss")
        ],
    }
    sizes = [round(part * size) for part in GROWTH]
    counts = [(one, cells) for one in sizes for cells in (1, cells_for(round(GROWTH_SELECTED * one)))]
    work["growth"] = [partial(alone, grown, one, cells) for one, cells in counts]
    work["trainer"] = [partial(alone, bookkeeping, one) for one in BOOKKEPT]
    results: Results = {"size": size, "seeds": seeds, "torch": torch.__version__}
    with tqdm(total=sum(map(len, work.values())), disable=None) as progress:
        for part, all_ in work.items():
            results[part] = []
            for one in all_:
                results[part].append(one())
                progress.update()
    return results


def command() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--size", type=int, default=SIZE, help="samples of the pool, at least 16,384")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="selections of each kind")
    given = parser.parse_args()
    if given.size < 2**14:
        parser.error(f"--size is {given.size}: give at least {2**14}, or 128 cells have too little to select from")
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}: give at least 1")
    torch.set_num_threads(1)
    start = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    results = simulate(given.size, given.seeds)
    end = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    results["seconds"] = sum(after.ru_utime - before.ru_utime for before, after in zip(start, end, strict=True))
    print(tables_of(results))
    if (given.size, given.seeds) == (SIZE, SEEDS):
        write_document(results)


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, command))
