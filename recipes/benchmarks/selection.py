"""What a selection costs, in exact passes: the N x K similarities of pool and centroids, computed once in float32,
nothing stored.

    python recipes/benchmarks/selection.py [--fashion_mnist FOLDER] [--rows NAME ...] [--device cuda]

FOLDER is what `recipes/data/make_fashion_mnist.py --all` wrote. Every row runs in a process of its own, so that its
peak memory is its own: a pass and a selection in turn, `--repeats` times. The dense reference (full-batch Adam with
autograd on Eq. 7, 300 steps, from the same start) is taken once. What was measured with as many threads and repeats is
kept in `runs/selection_benchmark`, and not measured again: delete it after a change of the code.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "selection"))
from dense_reference import dense_descent

from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.options import parse
from vecaf_hf.scoring.linear_heads import fit_head, make_probe, rescored
from vecaf_hf.selection import SelectionOptions, find_strategy, rounded, run_strategy
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.descent import optimise_centroids
from vecaf_hf.selection.products import products
from vecaf_hf.selection.rounded import has_native_bfloat16
from vecaf_hf.selection.similarity import unit_rows
from vecaf_hf.selection.starts import start_centroids
from vecaf_hf.selection.weighting import loss_weights, target_distribution

RECIPES = Path(__file__).parents[1]
FOLDER = Path("runs") / "selection_benchmark"
# Of what a row's file holds: those that hold something else are of another name.
VERSION = 4
CLASSES = 1000
# Of a selection's figures.
ENDS_AT = "objective_end"


@dataclass(frozen=True)
class Row:
    """A pool of N samples in d dimensions from which K are selected; `dense` takes the reference too."""

    size: int
    count: int
    dimension: int
    allocation: str = "global"
    fashion_mnist: bool = False
    dense: bool = False
    by_default: bool = True


ROWS = {
    "fashion-600": Row(60_000, 600, 1280, fashion_mnist=True, dense=True),
    "fashion-3000": Row(60_000, 3000, 1280, fashion_mnist=True, dense=True),
    "synthetic-2000": Row(200_000, 2000, 384),
    "synthetic-10000": Row(200_000, 10_000, 384),
    # For the growth, with the two before.
    "n-50000": Row(50_000, 1000, 384),
    "n-100000": Row(100_000, 1000, 384),
    "n-200000": Row(200_000, 1000, 384),
    "k-4000": Row(200_000, 4000, 384),
    "imagenet-class": Row(1_281_167, 12_812, 384, "class"),
    "imagenet-global": Row(1_281_167, 12_812, 384),
    "gpu-12812": Row(1_281_167, 12_812, 768, by_default=False),
    "gpu-51247": Row(1_281_167, 51_247, 768, by_default=False),
}
GROWTH = {
    "N": ["n-50000", "n-100000", "n-200000"],
    "K": ["n-200000", "synthetic-2000", "k-4000", "synthetic-10000"],
}


# --- Pools ---


def fashion_mnist(folder: Path) -> Candidates:
    """All images through the quickstart's model at its size; losses of a head fitted to them, once."""
    file = FOLDER / "fashion_mnist.safetensors"
    if not file.is_file():
        options = f"--config {RECIPES / 'configs' / 'quickstart.yaml'} --dataset_name {folder} --validation_split test "
        options += f"--test_split none --text_encoder none --output_dir {FOLDER / 'trainer'}"
        trainer, _ = build_trainer(*parse({}, options.split()))
        scored = trainer.scorer.score(torch.arange(len(trainer.train_dataset)))
        head = make_probe(trainer.scorer.head, scored.given("embeddings"))
        fit_head(head, scored)
        fitted = rescored(head, scored, trainer.sample_objective.sample_losses)
        assert fitted.embeddings is not None and fitted.losses is not None and fitted.labels is not None
        save_file({"embeddings": fitted.embeddings, "losses": fitted.losses, "labels": fitted.labels}, file)
    fields: dict[str, Any] = dict(load_file(file))
    return Candidates(torch.arange(len(fields["labels"])), **fields)


def synthetic(size: int, dimension: int) -> Candidates:
    """Samples around 1,000 class means, memory-mapped from a file that is written once."""
    file = FOLDER / f"clusters_{size}_{dimension}.npy"
    labels = torch.arange(size) % CLASSES
    if not file.is_file():
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(CLASSES, dimension, generator=generator)
        written = np.lib.format.open_memmap(file, "w+", np.float32, (size, dimension))
        for rows in tqdm(torch.arange(size).split(2**16), f"Writing {file.name}", leave=False):
            noise = torch.randn(len(rows), dimension, generator=generator)
            written[rows.numpy()] = (means[labels[rows]] + 1.5 * noise).numpy()
        written.flush()
    losses = torch.rand(size, generator=torch.Generator().manual_seed(1))
    embeddings = torch.from_numpy(np.load(file, mmap_mode="c"))
    return Candidates(torch.arange(size), embeddings=embeddings, losses=losses, labels=labels)


# --- Measurement, in a process of one row ---


def timed(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def resident() -> float:
    """Memory of this process in GiB, with what it has mapped and touched."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def reset_peak(device: str) -> None:
    """Forget the peak of what came before, such as making the pool."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20  # type: ignore[index]


def some_rows(row: Row) -> torch.Tensor:
    """K random samples. LongTensor [K]."""
    return torch.randperm(row.size, generator=torch.Generator().manual_seed(0))[: row.count]


def one_pass(embeddings: torch.Tensor, centroids: torch.Tensor) -> None:
    """The measure: each sample's nearest centroid, by float32 products of them all."""
    for _, similarities in products(embeddings, centroids):
        similarities.max(dim=1)


def measure(row: Row, pool: Candidates, repeats: int, device: str) -> dict[str, object]:
    """Seconds of each pass and selection, with bfloat16 and without, and GiB of memory; J where centroids start as they
    do by default, and where they start at random samples."""
    pool = pool.to(device)
    embeddings = pool.embeddings
    assert embeddings is not None
    embeddings.sum()  # A mapped file is read before memory and time are taken.
    before = torch.cuda.memory_allocated() / 2**30 if device == "cuda" else resident()
    centroids = embeddings[some_rows(row)]
    reset_peak(device)
    strategy, options = find_strategy("ods"), SelectionOptions(allocation=row.allocation)
    selections: list[float] = []
    passes: list[float] = []
    in_float32: list[float] = []
    ways = [True, False] if has_native_bfloat16() and repeats > 2 else [True]
    for seed in tqdm(range(repeats), "Repeats", leave=False):
        if row.allocation == "global":
            passes.append(timed(partial(one_pass, embeddings, centroids), device))
        select = partial(run_strategy, strategy, pool, row.count, options, seed)
        for in_bfloat16 in ways if seed % 2 else ways[::-1]:
            how = nullcontext() if in_bfloat16 else patch.object(rounded, "has_native_bfloat16", lambda: False)
            with how:
                (selections if in_bfloat16 else in_float32).append(timed(select, device))
    highest = peak(device)
    j = {
        name: float(run_strategy(strategy, pool, row.count, replace(options, centroid_start=start), 0).info[ENDS_AT])
        for name, start in (("default", options.centroid_start), ("random", "random"))
    }
    return {
        "selections": selections,
        "passes": passes,
        "in_float32": in_float32,
        "extra": highest - before,
        "peak": highest,
        "j": j,
    }


def measure_dense(row: Row, pool: Candidates) -> dict[str, object]:
    """Seconds of the reference, and J at the start, at its end and at ours, from the same start."""
    assert pool.embeddings is not None and pool.losses is not None
    options = SelectionOptions(allocation="global")
    embeddings, weights = unit_rows(pool.embeddings), loss_weights(pool.losses, options.loss_weighting)
    drawn = torch.Generator().manual_seed(0)
    start = start_centroids(embeddings, weights, row.count, options.centroid_start, drawn)
    begun = time.perf_counter()
    first = embeddings[start.rows]
    reached = dense_descent(embeddings, target_distribution(weights), first, diversity_weight=options.diversity_weight)
    seconds = time.perf_counter() - begun
    ours = [
        optimise_centroids(embeddings, weights, start, options, torch.Generator().manual_seed(seed)).view.objective
        for seed in range(3)
    ]
    return {"seconds": seconds, "start": reached[0], "end": min(reached), "ours": ours}


def file_of(name: str, part: str, given: argparse.Namespace) -> Path:
    times = 1 if part == "dense" else given.repeats
    return FOLDER / f"{name}-{given.device}-{torch.get_num_threads()}threads-{part}-{times}-v{VERSION}.json"


def result(name: str, part: str, given: argparse.Namespace) -> dict:
    """What a row's process measured, now or earlier."""
    file = file_of(name, part, given)
    if not file.is_file():
        words = ["--rows", name, "--part", part, "--repeats", str(given.repeats), "--device", given.device]
        words += ["--fashion_mnist", str(given.fashion_mnist)] if given.fashion_mnist else []
        subprocess.run([sys.executable, __file__, *words], check=True)
    return json.loads(file.read_text())


def run_part(name: str, part: str, given: argparse.Namespace) -> None:
    row = ROWS[name]
    pool = fashion_mnist(given.fashion_mnist) if row.fashion_mnist else synthetic(row.size, row.dimension)
    found = measure(row, pool, given.repeats, given.device) if part == "engine" else measure_dense(row, pool)
    file_of(name, part, given).write_text(json.dumps({"row": asdict(row), "torch": torch.__version__, **found}))


# --- The tables ---


def line(name: str, given: argparse.Namespace) -> str:
    row, found = ROWS[name], result(name, "engine", given)
    seconds = statistics.median(found["selections"])
    cells = [f"{row.size:,}", f"{row.count:,}", str(row.dimension), row.allocation, f"{seconds:.1f}"]
    if found["passes"]:
        one = statistics.median(found["passes"])
        ratios = [each / its for each, its in zip(found["selections"], found["passes"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells += [f"{one:.2f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
    else:
        cells += ["", ""]
    slower = [exact / ours for exact, ours in zip(found["in_float32"], found["selections"], strict=False)]
    cells += [
        "{1:.2f} ({0:.2f} to {2:.2f})".format(*statistics.quantiles(slower, n=4)) if slower else "",
        f"{found['extra']:.2f}",
        f"{found['peak']:.2f}",
        f"{found['j']['default']:.3f} ({found['j']['random']:.3f})",
    ]
    if row.dense:
        dense = result(name, "dense", given)
        decrease = [(dense["start"] - end) / (dense["start"] - dense["end"]) for end in dense["ours"]]
        cells += [f"{dense['seconds'] / seconds:.0f}", f"{min(decrease):.4f} to {max(decrease):.4f}"]
    else:
        cells += ["", ""]
    return f"| {' | '.join(cells)} |"


def exponent(names: list[str], size: Callable[[Row], int], given: argparse.Namespace) -> float:
    """Slope of log time over log size."""
    times = [statistics.median(result(name, "engine", given)["selections"]) for name in names]
    return float(np.polyfit(np.log([size(ROWS[name]) for name in names]), np.log(times), 1)[0])


def main(given: argparse.Namespace) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    if given.part:
        run_part(given.rows[0], given.part, given)
        return
    names = given.rows or [name for name, row in ROWS.items() if row.by_default]
    if given.fashion_mnist is None and not given.rows:
        print("without --fashion_mnist the rows of real embeddings are left out")
        names = [name for name in names if not ROWS[name].fashion_mnist]
    header = ["N", "K", "d", "allocation", "seconds", "one pass, s", f"passes, median of {given.repeats} (quartiles)"]
    header += [
        "without bfloat16, times",
        "extra GiB",
        "peak GiB",
        "J (from a random start)",
        "dense reference / ours, time",
        "decrease in J, of the reference's",
    ]
    lines = [line(name, given) for name in tqdm(names, "Rows")]
    bfloat16 = "native" if has_native_bfloat16() else "none"
    print(f"{given.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, bfloat16: {bfloat16}")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", *lines, sep="\n")
    for what, rows in GROWTH.items():
        if set(rows) <= set(names):
            grown = exponent(rows, (lambda row: row.size) if what == "N" else (lambda row: row.count), given)
            print(f"time grows as {what} to the power of {grown:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion_mnist", type=Path, metavar="FOLDER")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="all but those for a GPU, if not given")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--part", choices=["engine", "dense"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error("--repeats must be at least 2, for quartiles")
    if any(name.startswith("gpu") for name in arguments.rows or []) and arguments.device == "cpu":
        parser.error("rows for a GPU need --device cuda")
    main(arguments)
