"""Selections that cover a pool, by us and by other libraries, side by side: seconds, memory, and what they are worth.

    python recipes/benchmarks/selection.py --fashion_mnist FOLDER --rows fashion-600   # makes the embeddings, once
    python recipes/benchmarks/peers.py [--sizes 10000 60000] [--part 0.01]

Of the first N of the embeddings a part is selected, all samples weighing the same. Each selection runs in a process of
its own, which has its own peak of memory, `--repeats` times with other seeds. This script installs nothing: it says
which libraries are missing (docs/peers.md names the versions that it was run with).

- coverage: mean cosine of the pool's samples to their nearest selected one. Times N it is what facility location
  maximises, where similarities are cosines.
- J: the objective of ODS (Eq. 7) with the selected samples as centroids; the lower, the better.
- rows: distinct ones, of as many as were asked for.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from selection import FOLDER, peak, reset_peak, resident
from tqdm.auto import tqdm

from vecaf_hf.selection import SelectionOptions, find_strategy, run_strategy
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.objective import mean_log_sum, objective
from vecaf_hf.selection.similarity import nearest, unit_rows

# Bytes that a matrix of similarities may take; beyond, a library that holds one is not asked.
MOST_BYTES = 8 * 2**30

Chosen = Any


def by_us(strategy: str) -> Callable[[np.ndarray, int, int], Chosen]:
    def select(points: np.ndarray, count: int, seed: int) -> Chosen:
        candidates = Candidates(torch.arange(len(points)), torch.from_numpy(points), losses=torch.ones(len(points)))
        options = SelectionOptions(allocation="global")
        return run_strategy(find_strategy(strategy), candidates, count, options, seed).indices.numpy()

    return select


def nearest_to(centres: np.ndarray, points: np.ndarray) -> Chosen:
    """What the usual recipe selects: for each centroid the sample that is nearest, be it that of another one too."""
    return nearest(unit_rows(torch.from_numpy(centres)), torch.from_numpy(points))[1].numpy()


def minibatch(points: np.ndarray, count: int, seed: int) -> Chosen:
    from sklearn.cluster import MiniBatchKMeans

    return nearest_to(MiniBatchKMeans(count, random_state=seed, n_init=1).fit(points).cluster_centers_, points)


def faiss_kmeans(points: np.ndarray, count: int, seed: int) -> Chosen:
    import faiss

    # By default at most 256 samples per centroid are looked at, which is all of them here.
    made = faiss.Kmeans(points.shape[1], count, niter=20, seed=seed, spherical=True, min_points_per_centroid=1)
    made.train(points)
    return nearest_to(made.centroids, points)


def apricot(points: np.ndarray, count: int, seed: int) -> Chosen:
    from apricot import FacilityLocationSelection

    # Its cosine is that of unit rows, squared: products are given instead.
    similarities = np.maximum(points @ points.T, 0)
    return FacilityLocationSelection(count, metric="precomputed", random_state=seed).fit(similarities).ranking


def submodlib(points: np.ndarray, count: int, seed: int) -> Chosen:
    from submodlib import FacilityLocationFunction

    similarities = np.maximum(points @ points.T, 0)
    made = FacilityLocationFunction(n=len(points), mode="dense", sijs=similarities, separate_rep=False)
    return [row for row, _ in made.maximize(budget=count, optimizer="LazyGreedy", show_progress=False)]


# Name -> the package that it needs, whether it holds a matrix of similarities, and how it selects.
PEERS: dict[str, tuple[str, bool, Callable[[np.ndarray, int, int], Chosen]]] = {
    "vecaf_hf ods": ("vecaf_hf", False, by_us("ods")),
    "vecaf_hf activeft, as published": ("vecaf_hf", False, by_us("activeft")),
    "vecaf_hf k_center": ("vecaf_hf", False, by_us("k_center")),
    "scikit-learn MiniBatchKMeans, nearest": ("sklearn", False, minibatch),
    "faiss spherical k-means, nearest": ("faiss", False, faiss_kmeans),
    "apricot facility location": ("apricot", True, apricot),
    "submodlib facility location": ("submodlib", True, submodlib),
}


def embeddings(size: int) -> np.ndarray:
    """The first ones, unit rows. [N, d]."""
    file = FOLDER / "fashion_mnist.safetensors"
    if not file.is_file():
        raise SystemExit(f"{file} is not there: see the top of this script")
    return unit_rows(load_file(file)["embeddings"][:size]).numpy()


def worth(points: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Coverage, J and how many rows are distinct."""
    pool, options, rows = torch.from_numpy(points), SelectionOptions(), np.unique(rows)
    centroids = pool[torch.from_numpy(rows)]
    similarity, _ = nearest(pool, centroids)
    value = objective(
        similarity.mean(), mean_log_sum(centroids, options.temperature), options.temperature, options.diversity_weight
    )
    return {"coverage": float(similarity.mean()), "J": float(value), "rows": len(rows)}


def measure(name: str, size: int, part: float, repeats: int) -> dict[str, Any]:
    points, (_, _, select) = embeddings(size), PEERS[name]
    before, found = resident(), []
    # What is imported and compiled at first is not the selection's.
    select(points[:200], 2, 0)
    reset_peak("cpu")
    for seed in range(repeats):
        start = time.perf_counter()
        rows = np.asarray(select(points, round(part * size), seed)).astype(np.int64)
        found.append({"seconds": time.perf_counter() - start, **worth(points, rows)})
    return {name: statistics.median(one[name] for one in found) for name in found[0]} | {"GiB": peak("cpu") - before}


def told(name: str, size: int, given: argparse.Namespace) -> dict[str, Any] | str:
    """What a process of its own measured, or why it was not started."""
    package, holds_matrix, _ = PEERS[name]
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    if holds_matrix and 4 * size**2 > MOST_BYTES:
        return f"its matrix would take {4 * size**2 / 2**30:.0f} GiB"
    words = ["--measure", name, "--sizes", str(size), "--part", str(given.part), "--repeats", str(given.repeats)]
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(given: argparse.Namespace) -> None:
    if given.measure:
        print(json.dumps(measure(given.measure, given.sizes[0], given.part, given.repeats)))
        return
    lines = [
        "| N | K | selected by | seconds | times ours | GiB | coverage | J | rows |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size in given.sizes:
        first = 0.0
        for name in tqdm(PEERS, f"N = {size}"):
            found, count = told(name, size, given), round(given.part * size)
            if isinstance(found, str):
                lines.append(f"| {size:,} | {count:,} | {name} | {found} | | | | | |")
                continue
            first = first or found["seconds"]
            cells = [f"{found['seconds']:.1f}", f"{found['seconds'] / first:.1f}", f"{found['GiB']:.2f}"]
            cells += [f"{found['coverage']:.4f}", f"{found['J']:.3f}", f"{found['rows']:.0f}"]
            lines.append(f"| {size:,} | {count:,} | {name} | {' | '.join(cells)} |")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", *lines, sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 60_000])
    parser.add_argument("--part", type=float, default=0.01)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=PEERS, help=argparse.SUPPRESS)
    main(parser.parse_args())
