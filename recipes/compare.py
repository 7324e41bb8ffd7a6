"""Strategies x pools x learning rates x seeds, every cost counted: does a selection pay, on this data?

    python recipes/compare.py recipes/configs/compare_fashion_mnist.yaml

Each cell of the grid is one run and one file of results: a grid can be stopped and taken up anywhere. Started several
times, on machines with a common folder, the processes share the cells. A method's learning rate is picked on the
validation split, by the tuning seeds; the other seeds run at the picked rate alone. The test split is read once, with
the picked runs' models, which are deleted then; with `test_split: none`, as for the choice of options, never. A run
that fails is logged and left to the next start. When nothing is missing, the picked runs' results, tables and plots are
written to the grid's `report`; `--report` writes those of the methods that are through by now, and runs nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))
from comparison import summary_of
from grid import Cell, Grid
from options import Arguments, parse
from pools.rare import rare_shares
from readings import by_class_shares, class_shares
from report import write_report

from vecaf_hf import VeCAFTrainer
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.cells import Curve, going_on, keep, work_off
from vecaf_hf.cli.terminal import Parser, UsageError, run_in_terminal
from vecaf_hf.printable import listed

# (results, folder) -> what is printed of the tables that it wrote there.
Report = Callable[[dict[str, Any], Path], str]


class CurveUnderTargets(Curve):
    """With the accuracy under each target."""

    def __init__(self, trainer: VeCAFTrainer, targets: Mapping[str, Dataset]) -> None:
        super().__init__(trainer)
        self.targets = targets

    def point(self, step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        found = super().point(step, metrics)
        return found | ({"targets": accuracies(self.trainer, self.targets)} if self.targets else {})


def accuracies(trainer: VeCAFTrainer, seen: Mapping[str, Dataset]) -> dict[str, float]:
    """Of the trainer's model on each of the datasets; nothing is logged."""
    found = {name: trainer.predict(cast(Any, one), metric_key_prefix="seen") for name, one in seen.items()}
    return {name: (one.metrics or {})["seen_accuracy"] for name, one in found.items()}


def seen_under_targets(
    grid: Grid, trainer: VeCAFTrainer, split: Dataset, options: Arguments, name: str
) -> dict[str, Dataset]:
    """What the model takes of each target of a split, `validation` or `test`."""
    recipe, cea, _ = options
    columns = cea.image_column, str(trainer.args.label_column)
    most = grid.target_samples.get(name)
    return {one: grid.target(one).of(split, *columns, recipe, trainer.processing_class, most) for one in grid.targets}


def trainer_of(grid: Grid, cell: Cell, **options: Any) -> tuple[VeCAFTrainer, Any]:
    return build_trainer(*arguments_of(grid, cell, **options), **grid.trainer_options(cell))


def curve_of(grid: Grid, trainer: VeCAFTrainer, options: Arguments) -> CurveUnderTargets:
    """Of a run with these options."""
    if "validation" not in grid.target_samples:
        return CurveUnderTargets(trainer, {})
    validation = cast(Dataset, trainer.eval_dataset)
    return CurveUnderTargets(trainer, seen_under_targets(grid, trainer, validation, options, "validation"))


def arguments_of(grid: Grid, cell: Cell, **options: Any) -> Arguments:
    values = {
        **grid.settings(cell),
        "output_dir": str(grid.folder / "scratch" / cell.name),
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **options,
    }
    given = {name: value for name, value in values.items() if name not in grid.OWN}
    return parse({}, [word for name, value in given.items() for word in (f"--{name}", *words_of(value))])


def words_of(value: Any) -> list[str]:
    """An option's value on a command line."""
    if isinstance(value, list):
        return [str(one) for one in value]
    return [json.dumps(value) if isinstance(value, dict) else str(value)]


def check(grid: Grid) -> None:
    """Raise a UsageError where a method on a pool has what is no option or no value of it, or a target: not in each of
    its runs."""
    if grid.targets and not grid.tests and "validation" not in grid.target_samples:
        raise UsageError(f"test_split is none, and the targets {listed(grid.targets)} are read with the test split")
    for name in grid.targets:
        try:
            grid.target(name)
        except (TypeError, ValueError) as error:
            raise UsageError(f"target {name!r}: {error}") from error
    for pool, method in grid.groups():
        try:
            arguments_of(grid, grid.tuning(pool, method)[0])
        except UsageError as error:
            raise UsageError(f"method {method!r} on pool {pool!r}: {error}") from error


def check_targets(grid: Grid) -> None:
    """Raise a UsageError where a target's images cannot be had on this machine: not when all is trained."""
    for name in grid.targets:
        try:
            grid.target(name).check()
        except (ImportError, ValueError) as error:
            raise UsageError(f"target {name!r}: {error}") from error


def run(grid: Grid, cell: Cell) -> None:
    """Train one cell, and keep its curve and, for a test, its model."""
    begun = time.perf_counter()
    options = arguments_of(grid, cell)
    trainer, split = build_trainer(*options, **grid.trainer_options(cell))
    if grid.tests:
        grid.check_columns(cast(Dataset, split))
    curve = curve_of(grid, trainer, options)
    trainer.add_callback(curve)
    trainer.train()
    if not curve.points:
        # Whatever eval_steps is, Trainer evaluates after the last step, but not where eval_strategy is `no`.
        trainer.evaluate()
    if grid.tests:
        trainer.save_model(str(grid.model(cell)))
    result: dict[str, Any] = {"options": grid.recorded(cell), "curve": curve.points}
    result["records"] = [record.to_json() for record in trainer.loop_records]
    selections = [one.indices for one in trainer.selection_history]
    more = {"domains": rare_shares(trainer.train_dataset, selections, grid.columns()), "classes": class_shares(trainer)}
    result |= {name: found for name, found in more.items() if found}
    keep(grid.file(cell), {**result, "seconds": time.perf_counter() - begun})
    shutil.rmtree(str(trainer.args.output_dir), ignore_errors=True)


def test(grid: Grid, cell: Cell) -> None:
    """Evaluate a picked cell's model on the test split and the targets, once; the method's last one deletes the models
    of all."""
    result = grid.result(cell)
    assert result is not None
    recipe, cea, args = arguments_of(grid, cell, model_name_or_path=str(grid.model(cell)))
    # Without what is for training alone.
    recipe, cea = replace(recipe, text_encoder=None, restyle=None), CEAOptions(image_column=cea.image_column)
    trainer, split = build_trainer(recipe, cea, args, **grid.trainer_options(cell))
    found: Any = trainer.predict(cast(Any, split), metric_key_prefix="test")
    metrics = found.metrics or {}
    result["test"] = metrics["test_accuracy"]
    if grid.MEASURES:
        result["measures"] = {name: metrics[f"test_{name}"] for name in grid.MEASURES}
    elif "classes" in result:
        result["by_shares"] = by_class_shares(found.predictions, found.label_ids, **result["classes"])
    if grid.targets:
        seen = seen_under_targets(grid, trainer, cast(Dataset, split), (recipe, cea, args), "test")
        result["targets"] = accuracies(trainer, seen)
    keep(grid.file(cell), result)
    if all("test" in (grid.result(one) or {}) for one in grid.picked(cell.pool, cell.method) or []):
        shutil.rmtree(grid.models(cell.pool, cell.method), ignore_errors=True)


class GridCells:
    """A grid's runs, to be worked off."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.missing, self.left, self.file = grid.missing, grid.left, grid.file

    def do(self, cell: Cell) -> None:
        (run if self.grid.result(cell) is None else test)(self.grid, cell)


def summary(grid: Grid) -> dict[str, Any]:
    """Of what is through: "pool/method" -> the rate, its runs, and where every tried rate ended on validation."""
    found = {}
    for pool, method in grid.groups():
        if not grid.is_through(pool, method):
            continue
        cells = grid.picked(pool, method) or []
        tried = [
            {
                "learning_rate": cell.learning_rate,
                "seed": cell.seed,
                "accuracy": (end := (grid.result(cell) or {})["curve"][-1])["accuracy"],
                **({} if grid.pick_by == "accuracy" else {grid.pick_by: grid.reading(end)}),
            }
            for cell in grid.tuning(pool, method)
        ]
        found[f"{pool}/{method}"] = {
            "strategy": grid.settings(cells[0]).get("strategy"),
            "learning_rate": cells[0].learning_rate,
            "tried": tried,
            "runs": [summary_of(grid.result(cell) or {}) for cell in cells],
        }
    return found


def main(file: Path, report_only: bool = False, report: Report | None = None) -> None:
    carry_out(Grid.load(file), report_only, report)


def carry_out(grid: Grid, report_only: bool = False, report: Report | None = None) -> None:
    """Run what is missing, and report; `report` (results, folder) -> text is `write_report` unless given."""
    if not report_only:
        check(grid)
        check_targets(grid)
        if failed := work_off(GridCells(grid), "Grid"):
            raise SystemExit(f"{len(failed)} runs failed, as logged: {listed(cell.name for cell in failed)}")
    # All processes come here at once.
    with FileLock(grid.folder / "report.lock"):
        results = summary(grid)
        if not results:
            raise SystemExit(f"no method of the grid in {grid.folder} is through yet: run it without --report")
        keep(grid.report / "results.json", results)
        print((report or write_report)(results, grid.report))


def command(description: str | None = __doc__, report: Report | None = None) -> None:
    parser = Parser(description=description)
    parser.add_argument("grid", type=Path, metavar="GRID", help="The grid's YAML file, such as those in configs/.")
    parser.add_argument(
        "--report", action="store_true", help="Report on the methods that are through, and run nothing."
    )
    asked = parser.parse_args()
    with going_on():
        main(asked.grid, asked.report, report)


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, command))
