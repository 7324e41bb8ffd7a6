"""A selection by several processes against one: seconds, memory, bytes that they send each other.

    python recipes/benchmarks/sharded_selection.py [--samples 200000] [--dimension 384] [--select 2000 10000]
        [--processes 1 2] [--allocation global] [--strategy ods] [--repeats 1]

Processes of one thread each on this machine (gloo), in turn with one process. The pool is made, around 1,000 class
means, and each process reads its share, as if it had scored it; its memory is what it asked for on top of what it had
before that. All must select the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from vecaf_hf.agreement import Together, done_together
from vecaf_hf.selection import SelectionOptions, find_strategy, run_strategy
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.processes import Spread, even_bounds, share_of

CLASSES = 1000


def write_pool(folder: Path, size: int, dimension: int) -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, dimension, generator=generator)
    written = np.lib.format.open_memmap(folder / "embeddings.npy", "w+", np.float32, (size, dimension))
    for rows in torch.arange(size).split(2**14):
        noise = torch.randn(len(rows), dimension, generator=generator)
        written[rows.numpy()] = (means[rows % CLASSES] + 1.5 * noise).numpy()
    written.flush()


def read_pool(folder: Path, together: Together) -> Candidates:
    mapped = np.load(folder / "embeddings.npy", mmap_mode="r")
    rows = torch.arange(len(mapped))
    share = share_of(len(rows), together)
    # Memory of its own, and no page of a file.
    own = torch.empty(share.stop - share.start, mapped.shape[1])
    own.numpy()[:] = mapped[share]
    losses = torch.rand(len(rows), generator=torch.Generator().manual_seed(1))
    spread = Spread(own, even_bounds(len(rows), together.world), together)
    return Candidates(rows, losses=losses, labels=rows % CLASSES, processes=together, shared_embeddings=spread)


class Peak(threading.Thread):
    """The most memory of its own, in MiB, that this process has while the thread runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.ended = own_memory(), threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            self.highest = max(self.highest, own_memory())


def own_memory() -> float:
    """Without pages of mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 2**10


class Counted(Together):
    """Counts what this process hands over."""

    sent = 0

    def gather(self, values: Tensor) -> Tensor:
        self.sent += values.numel() * values.element_size() * (self.world > 1)
        return super().gather(values)

    def deal(self, parts: list[Tensor]) -> list[Tensor]:
        self.sent += sum(part.numel() * part.element_size() for rank, part in enumerate(parts) if rank != self.rank)
        return super().deal(parts)

    def sum(self, values: Tensor) -> Tensor:
        self.sent += values.numel() * values.element_size() * (self.world > 1)
        return super().sum(values)


def measure(given: argparse.Namespace) -> None:
    """In each of the processes."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    options = SelectionOptions(strategy=given.strategy, allocation=given.allocation)
    counted: list[Counted] = []
    times: list[tuple[float, float]] = []

    def select(together: Together) -> Any:
        together.__class__ = Counted
        counted.append(together)  # type: ignore[arg-type]
        candidates = read_pool(given.folder, together)
        times.append((time.perf_counter(), time.process_time()))
        return run_strategy(find_strategy(given.strategy), candidates, given.select[0], options, 0)

    accelerator.wait_for_everyone()
    before, peak = own_memory(), Peak()
    peak.start()
    selection = done_together(accelerator, select)
    found = {
        "seconds": time.perf_counter() - times[0][0],
        "cpu": time.process_time() - times[0][1],
        "memory": peak.highest - before,
        "sent": counted[0].sent,
        "steps": selection.info.get("steps", given.select[0]),
        "flops": selection.info["flops"],
        "selected": hashlib.sha256(selection.indices.numpy().tobytes()).hexdigest(),
    }
    peak.ended.set()
    (given.folder / f"{accelerator.num_processes}-{accelerator.process_index}.json").write_text(json.dumps(found))


def run(processes: int, count: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    words = ["--folder", str(given.folder), "--select", str(count)]
    words += ["--strategy", given.strategy, "--allocation", given.allocation]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, __file__, *words], check=True, env=environment)
    return [json.loads((given.folder / f"{processes}-{rank}.json").read_text()) for rank in range(processes)]


def table(count: int, given: argparse.Namespace) -> list[str]:
    """A line for each number of processes."""
    runs: dict[int, list[list[dict[str, Any]]]] = {processes: [] for processes in given.processes}
    for _ in range(given.repeats):
        for processes in given.processes:
            runs[processes].append(run(processes, count, given))
    assert len({one["selected"] for of in runs.values() for ranks in of for one in ranks}) == 1, (
        "not the same selection"
    )
    lines: list[str] = []
    base: dict[str, float] = {}
    for processes, of in runs.items():
        median = {
            name: statistics.median(max(one[name] for one in ranks) for ranks in of)
            for name in ("seconds", "cpu", "memory", "sent", "steps")
        }
        base = base or median
        cells = [f"{given.samples:,}", f"{given.dimension}", f"{count:,}", str(processes)]
        cells += [f"{median['seconds']:.1f}", f"{base['seconds'] / median['seconds']:.2f}", f"{median['cpu']:.1f}"]
        cells += [f"{median['memory']:.0f}", f"{median['memory'] / base['memory']:.2f}"]
        cells += [f"{median['sent'] / 2**20:.1f}", f"{median['sent'] / median['steps'] / 2**20:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(given: argparse.Namespace) -> None:
    if given.folder is not None:
        measure(given)
        return
    header = ["N", "d", "K", "processes", "seconds", "times as fast", "CPU s a process", "MiB a process", "of one's"]
    header += ["MiB sent by a process", "a step"]
    with tempfile.TemporaryDirectory() as folder:
        given.folder = Path(folder)
        write_pool(given.folder, given.samples, given.dimension)
        print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, torch {torch.__version__}, gloo")
        print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
        for count in given.select:
            print(*table(count, given), sep="\n", flush=True)
        print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--select", type=int, nargs="+", default=[2000, 10_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--allocation", default="global", choices=["global", "class", "class_loss"])
    parser.add_argument("--strategy", default="ods", choices=["ods", "activeft", "k_center"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    main(parser.parse_args())
