"""Strategies x pools x learning rates x seeds, every cost counted: does a selection pay, on this data?

    python recipes/compare.py recipes/configs/compare_fashion_mnist.yaml

Each cell of the grid is one run and one file of results: a grid can be stopped and taken up anywhere. Started several
times, on machines with a common folder, the processes share the cells. A method's learning rate is picked on the
validation split, by the tuning seeds; the other seeds run at the picked rate alone. The test split is read once, with
the picked runs' models; with `test_split: none`, as for the choice of options, never. When nothing is missing, the
picked runs' results, tables and plots are written to the grid's `report`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent))
from comparison import summary_of, write_report
from finetune import build_trainer
from options import parse

from vecaf_hf import VeCAFTrainer
from vecaf_hf.validation import check_options

# Seconds until another look, while other processes are at all that is left.
WAITING = 5


@dataclass(frozen=True)
class Cell:
    """One run."""

    pool: str
    method: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.pool}/{self.method}/rate{self.learning_rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """A YAML file's content; what it leaves out is that of the file beside it that it names as its `base`, and options
    are added to that one's.

    Args:
        folder: Where each cell's result goes.
        report: Where what is made of them goes.
        options: Of every run, as a recipe takes them.
        methods: Name -> the options that make it.
        pools: Names in `vecaf_hf.data.pools.POOLS` -> options of the runs on that pool, which a method's override.
        learning_rates: Tried for each method on each pool.
        tuning_seeds: Pick the rate.
        seeds: Run at the picked rate; the tuning seeds among them.
    """

    folder: Path
    report: Path
    options: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    pools: dict[str, dict[str, Any]]
    learning_rates: list[float]
    seeds: list[int]
    tuning_seeds: list[int] = field(default_factory=lambda: [0])

    @classmethod
    def load(cls, file: Path) -> Grid:
        values = yaml.safe_load(file.read_text())
        if "base" in values:
            base = yaml.safe_load((file.parent / values.pop("base")).read_text())
            values = {**base, **values, "options": {**base["options"], **values.get("options", {})}}
        check_options(str(file), values, cls.__dataclass_fields__)
        return cls(**{**values, "folder": Path(values["folder"]), "report": Path(values["report"])})

    def groups(self) -> Iterator[tuple[str, str]]:
        """(pool, method); the methods that come first in the file are through first."""
        return ((pool, method) for method in self.methods for pool in self.pools)

    def tuning(self, pool: str, method: str) -> list[Cell]:
        return [Cell(pool, method, rate, seed) for rate in self.learning_rates for seed in self.tuning_seeds]

    def picked(self, pool: str, method: str) -> list[Cell] | None:
        """The cells at the rate whose tuning runs ended best on validation; None while one of them is missing."""
        tuned = [(cell, self.result(cell)) for cell in self.tuning(pool, method)]
        if any(result is None for _, result in tuned):
            return None
        ends: dict[float, list[float]] = {}
        for cell, result in tuned:
            assert result is not None
            ends.setdefault(cell.learning_rate, []).append(result["curve"][-1]["accuracy"])
        best = max(ends, key=lambda rate: fmean(ends[rate]))
        return [Cell(pool, method, best, seed) for seed in self.seeds]

    def file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}.json"

    def model(self, cell: Cell) -> Path:
        return self.folder / "models" / cell.name

    def result(self, cell: Cell) -> dict[str, Any] | None:
        file = self.file(cell)
        return json.loads(file.read_text()) if file.is_file() else None

    def cells(self, pool: str, method: str) -> list[Cell]:
        """A method's runs that are known by now: its other seeds wait for its rate."""
        return list(dict.fromkeys(self.tuning(pool, method) + (self.picked(pool, method) or [])))

    def untrained(self) -> list[Cell]:
        """Known cells without a result."""
        return [cell for group in self.groups() for cell in self.cells(*group) if not self.file(cell).is_file()]

    def left(self) -> int:
        """Runs of the whole grid without a result, those among them that are not known yet."""
        later = len(set(self.seeds) - set(self.tuning_seeds))
        return len(self.untrained()) + later * sum(self.picked(*group) is None for group in self.groups())

    def untested(self) -> list[Cell]:
        """Picked cells whose models have not seen the test split, where there is one."""
        if self.options.get("test_split") == "none":
            return []
        cells = (cell for group in self.groups() for cell in self.picked(*group) or [])
        return [cell for cell in cells if "test" not in (self.result(cell) or {})]


class Curve(TrainerCallback):
    """Validation accuracy and all work so far at every evaluation."""

    def __init__(self, trainer: VeCAFTrainer) -> None:
        self.trainer = trainer
        self.points: list[dict[str, Any]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics = kwargs["metrics"]
        self.points.append(
            {
                "step": state.global_step,
                "accuracy": metrics["eval_accuracy"],
                "loss": metrics["eval_loss"],
                "work": self.trainer.meter.state()["work"],
            }
        )


def trainer_of(grid: Grid, cell: Cell, **options: Any) -> tuple[VeCAFTrainer, Any]:
    values = {
        **grid.options,
        **grid.pools[cell.pool],
        **grid.methods[cell.method],
        "pool": cell.pool,
        "learning_rate": cell.learning_rate,
        "seed": cell.seed,
        "output_dir": str(grid.folder / "scratch" / cell.name),
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **options,
    }
    return build_trainer(
        *parse({}, [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))])
    )


def run(grid: Grid, cell: Cell) -> None:
    """Train one cell, and keep its curve and its model."""
    begun = time.perf_counter()
    trainer, _ = trainer_of(grid, cell)
    curve = Curve(trainer)
    trainer.add_callback(curve)
    trainer.train()
    trainer.save_model(str(grid.model(cell)))
    losses = [[log["step"], log["loss"]] for log in trainer.state.log_history if "loss" in log]
    write(grid.file(cell), {"curve": curve.points, "losses": losses, "seconds": time.perf_counter() - begun})
    shutil.rmtree(str(trainer.args.output_dir), ignore_errors=True)


def test(grid: Grid, cell: Cell) -> None:
    """Evaluate a picked cell's model on the test split, once."""
    result = grid.result(cell)
    assert result is not None
    trainer, split = trainer_of(grid, cell, model_name_or_path=str(grid.model(cell)), text_encoder="none")
    result["test"] = trainer.evaluate(split, metric_key_prefix="test")["test_accuracy"]
    write(grid.file(cell), result)


def write(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(values))
    temporary.rename(file)


def work_off(
    what: str,
    grid: Grid,
    left: Callable[[], int],
    missing: Callable[[], list[Cell]],
    work: Callable[[Grid, Cell], None],
) -> None:
    """Do what is missing until nothing is, beside other processes: progress and time left are of all of them."""
    with tqdm(desc=what, unit="run", total=left()) as progress:
        while cells := missing():
            progress.n = progress.total - left()
            progress.refresh()
            if not any(done_by_us(cell, grid, missing, work) for cell in cells):
                time.sleep(WAITING)


def done_by_us(cell: Cell, grid: Grid, missing: Callable[[], list[Cell]], work: Callable[[Grid, Cell], None]) -> bool:
    """Do a cell's work, unless another process does it or has done it."""
    file = grid.file(cell).with_suffix(".lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Of the operating system's: a killed process holds none.
        with FileLock(file, timeout=0):
            if cell not in missing():
                return False
            work(grid, cell)
            return True
    except Timeout:
        return False


def summary(grid: Grid) -> dict[str, Any]:
    """Of all picked cells: "pool/method" -> the rate, its runs, and where every tried rate ended on validation."""
    found = {}
    for pool, method in grid.groups():
        cells = grid.picked(pool, method) or []
        tried = {cell.name: (grid.result(cell) or {})["curve"][-1]["accuracy"] for cell in grid.tuning(pool, method)}
        runs = [summary_of(grid.result(cell) or {}) for cell in cells]
        found[f"{pool}/{method}"] = {"learning_rate": cells[0].learning_rate, "tried": tried, "runs": runs}
    return found


def main(file: Path) -> None:
    grid = Grid.load(file)
    work_off("Training", grid, grid.left, grid.untrained, run)
    work_off("Testing", grid, lambda: len(grid.untested()), grid.untested, test)
    results = summary(grid)
    write(grid.report / "results.json", results)
    print(write_report(results, grid.report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="YAML file")
    main(parser.parse_args().grid)
