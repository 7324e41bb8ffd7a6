"""The comparison grid: what is run and when, what its tables say of curves made by hand, and a tiny grid end to end."""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from every_case import every_case
from tiny_grids import tiny

from vecaf_hf.cli.terminal import Interrupted, UsageError

RECIPES = Path(__file__).parents[2] / "recipes"
GRIDS = sorted([*(RECIPES / "configs").glob("compare_*.yaml"), *(RECIPES / "configs" / "ablations").glob("*.yaml")])


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))


def point(step: int, accuracy: float, flops: float = 0.0) -> dict[str, Any]:
    counted = {"score": flops, "train": 3.0 * step, "evaluate": 1e9}
    work = {kind: {"flops": value, "samples": 0, "seconds": 0.0} for kind, value in counted.items()}
    return {"step": step, "accuracy": accuracy, "loss": 1 - accuracy, "work": work}


def put(grid: Any, cell: Any, *accuracies: float, **more: Any) -> None:
    """A result as of a run that was evaluated after each step."""
    from compare import keep

    curve = [point(step, accuracy) for step, accuracy in enumerate(accuracies, 1)]
    keep(grid.file(cell), {"options": grid.recorded(cell), "curve": curve, **more})


def grid_of(folder: Path, **changes: Any) -> Any:
    from grid import Grid

    values = {"options": {}, "methods": {"full": {}, "ods": {}}, "pools": {"clean": {}}, "learning_rates": [0.1, 0.01]}
    return Grid(folder=folder, report=folder, **{**values, "seeds": [0, 1], **changes})


def test_evaluation_is_no_cost():
    from comparison import cost

    assert cost(point(10, 0.5, flops=7)["work"]) == 37


@every_case(("target", "expected"), [(0.1, 10), (0.2, 10), (0.5, 25), (0.4, 20), (0.6, 30), (0.61, math.nan)])
def test_a_target_is_reached_on_the_line_between_two_evaluations(target, expected):
    from comparison import to_target

    accuracy, steps = np.array([[0.2, 0.4, 0.6, 0.5]]), np.array([[10, 20, 30, 40]])
    assert to_target(accuracy, steps, np.array([target])) == pytest.approx([expected], nan_ok=True)


def test_seeds_are_averaged_point_by_point():
    from comparison import mean_curve, summary_of

    curves = [[point(5, 0.2, 1), point(10, 0.4, 1)], [point(5, 0.4, 3), point(10, 0.8, 5)]]
    curve = mean_curve([summary_of({"curve": one}) for one in curves])
    expected = {"step": [5, 10], "accuracy": [0.3, 0.6], "loss": [0.7, 0.4], "flops": [17, 33]}
    assert {name: values.tolist() for name, values in curve.items()} == {
        name: pytest.approx(values) for name, values in expected.items()
    }


def entry(
    curves: list[list[float]], tests: list[float] | None, scored: int = 0, rate: float = 0.01, strategy: str = "ods"
) -> dict[str, Any]:
    """What results.json holds of a method: seeds' accuracies every 10 steps, at 1 TFLOP each and 1 for scoring."""
    work = {
        "score": {"samples": scored, "flops": 1e12 * (scored > 0), "seconds": 4.0 * (scored > 0)},
        "select": {"samples": 0, "flops": 0.0, "seconds": 0.24 * (scored > 0)},
        "train": {"samples": 0, "flops": 1e12 * len(curves[0]), "seconds": 60.0},
        "encode_text": {"samples": 0, "flops": 0.0, "seconds": 0.0},
    }
    runs = [
        {
            "curve": [
                {"step": 10 * i, "accuracy": accuracy, "loss": 1 - accuracy, "flops": 1e12 * (i + (scored > 0))}
                for i, accuracy in enumerate(curve, 1)
            ],
            "test": None if tests is None else tests[seed],
            "work": work,
        }
        for seed, curve in enumerate(curves)
    ]
    tried = [{"learning_rate": one, "seed": 0, "accuracy": 0.5} for one in (0.001, 0.01, 0.1)]
    return {"strategy": strategy, "learning_rate": rate, "tried": tried, "runs": runs}


def by_hand() -> dict[str, Any]:
    """Three methods, three seeds, every number easily made on paper."""
    return {
        "clean/full": entry([[0.1, 0.2, 0.52, 0.4]] * 3, [0.40, 0.41, 0.42], strategy="full"),
        "clean/random": entry(
            [[0.1, 0.2, 0.28, 0.5], [0.1, 0.2, 0.28, 0.4], [0.1, 0.2, 0.28, 0.6]], [0.5, 0.47, 0.47], rate=0.001
        ),
        "clean/ods": entry([[0.6, 0.7, 0.7, 0.7]] * 3, [0.5, 0.6, 0.7], scored=1500, rate=0.1),
    }


def cells_of(table: str) -> dict[str, dict[str, str]]:
    """Row -> column -> cell."""
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def test_every_cell_of_a_table_made_by_hand():
    from comparison import references, table

    results = by_hand()
    # random's curves end at 0.5, full's at 0.4: random is the best of what costs nothing.
    assert references({name.split("/")[1]: one for name, one in results.items()}) == ["full", "random"]
    found = cells_of(table(results, "clean"))
    assert [*found] == ["`ods`", "`random`", "`full`"]

    def row(method: str) -> list[str]:
        return [*found[f"`{method}`"].values()]

    assert [*found["`ods`"]] == [
        "test accuracy, %",
        "n",
        "learning rate",
        "samples scored",
        "all-in TFLOPs",
        "accuracy less `full`'s, paired",
        "batches until first at `full`'s last accuracy, of its whole run",
        "cost until first at `full`'s last accuracy, of its whole run",
        "accuracy less `random`'s, paired",
        "batches until first at `random`'s last accuracy, of its whole run",
        "cost until first at `random`'s last accuracy, of its whole run",
    ]
    # Errors of accuracies: stdev(50, 60, 70) / sqrt(3) = 5.77; of pairs: stdev(10, 19, 28) / sqrt(3) = 5.20.
    assert row("ods")[:6] == ["60.0 ± 5.8", "3", "0.1 (highest tried)", "1,500", "5.00", "+19.0 ± 5.2"]
    # Both targets at its first point: 10 of 40 batches, 2 of 4 TFLOPs.
    assert row("ods")[6:] == ["0.25 ± 0.00", "0.50 ± 0.00", "+12.0 ± 6.7", "0.25 ± 0.00", "0.50 ± 0.00"]
    assert row("full")[:6] == ["41.0 ± 0.6", "3", "0.01", "0", "4.00", ""]
    # It passes its own last accuracy at batch 20 + 10 * 0.2 / 0.32 = 26.25 of 40, and random's 0.5 at 29.375.
    assert row("full")[6:8] == ["0.66 ± 0.00"] * 2
    assert [one.split(" ± ")[0] for one in row("full")[9:]] == ["0.73"] * 2
    assert row("random")[:6] == ["48.0 ± 1.0", "3", "0.001 (lowest tried)", "0", "4.00", "+7.0 ± 1.5"]
    # 30 + 10 * 0.12 / 0.22 = 35.45 of 40; and its own at its end.
    assert [one.split(" ± ")[0] for one in row("random")[6:8]] == ["0.89"] * 2
    assert row("random")[8:] == ["", "1.00 ± 0.00", "1.00 ± 0.00"]


def test_the_error_of_a_ratio_is_that_of_seeds_drawn_anew():
    from comparison import part_of_whole

    def runs(*accuracies: list[float]) -> list[dict[str, Any]]:
        return entry([*accuracies], None)["runs"]

    reference = runs([0.0, 0.4], [0.0, 0.4])
    # Alone the seeds cross at batches 10 and 20, together at 10 + 10 * (0.4 - 0.3) / (0.6 - 0.3) = 13.3, of 20. Of the
    # resamples half are both of them, a quarter each seed twice.
    part, error, share = part_of_whole(runs([0.4, 0.8], [0.2, 0.4]), reference, "step")
    drawn = [10 / 20, 20 / 20, *[(10 + 10 / 3) / 20] * 2]
    assert part == pytest.approx(2 / 3) and error == pytest.approx(np.std(drawn) * 2**0.5, rel=0.05)
    assert share == 1
    # The mean curve reaches it, but only 47 % of the resamples do.
    skewed = runs(*[[0.0, end] for end in (0.95, 0.26, 0.2, 0.38, 0.22)])
    assert part_of_whole(skewed, runs(*[[0.0, 0.4]] * 5), "step").never
    # The other way round neither is there a ratio.
    skewed = runs(*[[0.0, end] for end in (0.125, 0.47, 0.5, 0.41, 0.49)])
    assert part_of_whole(skewed, runs(*[[0.0, 0.4]] * 5), "step").never
    # A quarter of the resamples reaches it; of those of three seeds 20 of 27 do.
    assert str(part_of_whole(runs([0.0, 0.5], [0.0, 0.2]), reference, "step")) == "never"
    three = part_of_whole(runs([0.0, 0.5], [0.0, 0.25], [0.0, 0.5]), runs(*[[0.0, 0.4]] * 3), "step")
    assert three.value == pytest.approx((10 + 10 * 0.4 / 1.25 * 3) / 20)
    assert three.share == pytest.approx(20 / 27, abs=0.05)
    # A reader is told that the error is of these alone.
    assert re.fullmatch(r"0\.98 ± 0\.0\d \(in 7\d%\)", str(three))
    assert str(part_of_whole(runs([0.4, 0.8]), runs([0.0, 0.4]), "step")) == "0.50"


def test_a_cost_table_by_hand():
    from comparison import cost_table

    found = cells_of(cost_table(by_hand(), "clean"))
    assert found["`ods`"] == {
        "`score`, TFLOPs (s)": "1.00 (4.0)",
        "`select`, TFLOPs (s)": "0.00 (0.2)",
        "`train`, TFLOPs (s)": "4.00 (60.0)",
    }
    assert [*found["`full`"].values()] == ["", "", "4.00 (60.0)"]


def test_without_a_test_and_with_one_seed_a_table_has_validation_and_no_errors():
    from comparison import table

    results = {"clean/full": entry([[0.1, 0.4]], None), "clean/ods": entry([[0.2, 0.3]], None)}
    row = cells_of(table(results, "clean"))["`ods`"]
    assert row["validation accuracy, %"] == "30.0" and row["accuracy less `full`'s, paired"] == "-10.0"
    assert row["batches until first at `full`'s last accuracy, of its whole run"] == "never"


def test_a_note_stands_under_the_tables_that_have_its_method(tmp_path):
    from report import write_report

    results = by_hand()
    assert "small model" not in write_report(results, tmp_path)
    results["clean/rho"] = entry([[0.1, 0.2, 0.3, 0.4]] * 3, [0.3] * 3, strategy="rho_loss")
    text = write_report(results, tmp_path)
    assert "\n\n`rho` fits its small model on the validation split" in text and "prunes" not in text


def test_the_rate_is_picked_on_validation_by_the_tuning_seeds_alone(tmp_path):
    from grid import Cell

    grid = grid_of(tmp_path)
    assert len(grid.untrained()) == 4 and grid.left() == 6 and grid.picked("clean", "ods") is None
    for rate, accuracy in ((0.1, 0.7), (0.01, 0.6)):
        put(grid, Cell("clean", "ods", rate, 0), 0.9, accuracy)
    assert grid.picked("clean", "ods") == [Cell("clean", "ods", 0.1, 0), Cell("clean", "ods", 0.1, 1)]
    assert Cell("clean", "ods", 0.1, 1) in grid.untrained() and Cell("clean", "ods", 0.01, 1) not in grid.untrained()
    # Another seed's result moves nothing.
    put(grid, Cell("clean", "ods", 0.1, 1), 0.9, 0.0)
    assert grid.picked("clean", "ods")[0].learning_rate == 0.1
    assert set(grid.untested()) == set(grid.picked("clean", "ods"))
    assert grid.left() == 3  # two rates of full, and then its other seed
    put(grid, Cell("clean", "ods", 0.1, 1), 0.9, 0.0, test=0.5)
    assert grid.untested() == [Cell("clean", "ods", 0.1, 0)] == grid.missing()[:1]


def test_a_result_of_other_options_is_refused(tmp_path):
    from grid import Cell

    cell = Cell("clean", "ods", 0.1, 0)
    put(grid_of(tmp_path, options={"max_steps": 10, "weight_decay": 0.1, "use_cpu": True}), cell, 0.5)
    same = grid_of(tmp_path, options={"weight_decay": 0.1, "max_steps": 10, "seed": 7, "num_loops": None})
    assert same.result(cell)["curve"][-1]["accuracy"] == 0.5
    other = grid_of(tmp_path, options={"max_steps": 20, "num_loops": 2, "weight_decay": 0.1})
    with pytest.raises(
        ValueError, match=r"rate0.1-seed0.json was made with max_steps 10 .not 20., num_loops None .not 2.: remove"
    ):
        other.untrained()


def test_a_misspelt_key_of_a_grid_is_refused(tmp_path):
    from grid import Grid

    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump({"folder": "x", "learning_rate": [1]}))
    with pytest.raises(ValueError, match=r"a key of .*grid.yaml is 'learning_rate' .did you mean 'learning_rates'"):
        Grid.load(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("", "grid.yaml holds nothing; it must have lines"),
        ("- 1", "grid.yaml holds a list; it must have lines"),
        ("folder: x", r"grid.yaml lacks report, options, methods, pools, learning_rates, seeds$"),
        ({"learning_rates": "[1e-3]"}, r"learning_rates of .*grid.yaml holds '1e-3', .* as in 1.0e-3"),
        ({"learning_rates": "[-1.0]"}, r"learning_rates of .*grid.yaml is -1.0; it must be positive"),
        ({"learning_rates": "1.0e-3"}, r"learning_rates of .*grid.yaml is 0.001; it must be a list"),
        ({"tuning_seeds": "[]"}, r"tuning_seeds of .*grid.yaml is \[\]; it must be a list"),
        ({"options": ""}, r"options of .*grid.yaml is None"),
        ({"methods": "{full: }"}, r"methods of .*grid.yaml is {'full': None}; it must be names"),
    ],
)
def test_what_is_wrong_with_a_grids_file_is_said(change, says, tmp_path):
    from grid import Grid

    file = tmp_path / "grid.yaml"
    keys = {"folder": "x", "report": "x", "options": "{}", "methods": "{a: {}}", "pools": "{clean: {}}"}
    keys |= {"learning_rates": "[1.0]", "seeds": "[0]"}
    lines = change if isinstance(change, str) else "\n".join(f"{k}: {v}" for k, v in {**keys, **change}.items())
    file.write_text(lines)
    with pytest.raises(ValueError, match=says):
        Grid.load(file)


def test_a_grid_takes_from_its_base_what_it_leaves_out(tmp_path):
    from grid import Grid

    base = {"folder": "a", "report": "a", "options": {"max_steps": 4, "num_loops": 2}, "methods": {"full": {}}}
    base |= {"pools": {"clean": {}}, "learning_rates": [1], "seeds": [0]}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump({"base": "base.yaml", "folder": "b", "options": {"num_loops": 3}}))
    grid = Grid.load(file)
    assert (grid.folder, grid.report, grid.options) == (Path("b"), Path("a"), {"max_steps": 4, "num_loops": 3})
    assert grid.methods == base["methods"]


def test_an_option_of_none_is_left_out(tmp_path, monkeypatch):
    import compare

    monkeypatch.setattr(compare, "build_trainer", lambda *arguments: (arguments, None))
    grid = grid_of(tmp_path, pools={"clean": {"rescore": "sampled", "scoring_fraction": 0.3}})
    grid.methods["ods"] = {"rescore": "full", "scoring_fraction": None}
    (_, _, args), _ = compare.trainer_of(grid, compare.Cell("clean", "ods", 0.1, 0), use_cpu=True)
    assert (args.rescore, args.scoring_fraction) == ("full", None)


def stand_ins(monkeypatch: pytest.MonkeyPatch, broken: tuple[str, ...] = ()) -> Counter[tuple[str, str]]:
    """Runs and tests that take no time, some of which fail; counted as (what, cell)."""
    import compare

    done: Counter[tuple[str, str]] = Counter()

    def run(grid: Any, cell: Any) -> None:
        done["run", cell.name] += 1
        time.sleep(0.01)
        if cell.method in broken:
            raise RuntimeError("no such luck")
        put(grid, cell, 0.5, cell.learning_rate)

    def test(grid: Any, cell: Any) -> None:
        done["test", cell.name] += 1
        time.sleep(0.01)
        put(grid, cell, 0.5, cell.learning_rate, test=0.5)

    monkeypatch.setattr(compare, "run", run)
    monkeypatch.setattr(compare, "test", test)
    monkeypatch.setattr("vecaf_hf.cli.cells.WAITING", 0.02)
    return done


def test_processes_that_share_a_grid_do_each_run_and_each_test_once(tmp_path, monkeypatch):
    import compare

    done = stand_ins(monkeypatch)
    grid = grid_of(tmp_path, pools={"clean": {}, "noisy": {}}, seeds=[0, 1, 2])
    failed: list[Any] = []
    cells = compare.GridCells(grid)
    threads = [threading.Thread(target=lambda: failed.extend(compare.work_off(cells, "Grid"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed and not grid.missing() and grid.left() == 0
    # Of each of four groups two rates, then two more seeds, then three tests.
    assert set(done.values()) == {1} and Counter(what for what, _ in done) == {"run": 16, "test": 12}


def test_a_cell_that_fails_ends_the_grid_only_when_all_others_are_done(tmp_path, monkeypatch, caplog):
    import compare
    import grid as grids

    done = stand_ins(monkeypatch, broken=("full",))
    grid = grid_of(tmp_path)
    monkeypatch.setattr(grids.Grid, "load", lambda file: grid)
    with pytest.raises(SystemExit, match=r"2 runs failed, as logged: clean/full/rate0.1-seed0, clean/full/rate0.01-"):
        compare.main(tmp_path / "grid.yaml")
    assert set(done.values()) == {1} and done["test", "clean/ods/rate0.1-seed1"] == 1
    assert "clean/full/rate0.1-seed0 failed" in caplog.text and "no such luck" in caplog.text
    assert not (tmp_path / "results.json").exists()


def test_one_process_at_a_time_writes_the_report(tmp_path, monkeypatch):
    import compare
    import grid as grids

    stand_ins(monkeypatch)
    grid = grid_of(tmp_path, methods={"mine": {"strategy": "rho_loss"}})
    compare.work_off(compare.GridCells(grid), "Grid")
    monkeypatch.setattr(grids.Grid, "load", lambda file: grid)
    inside, most = [], []

    def write_report(results: Any, folder: Path) -> str:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return ""

    monkeypatch.setattr(compare, "write_report", write_report)
    threads = [threading.Thread(target=compare.main, args=(tmp_path / "grid.yaml",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1, 1, 1]
    found = json.loads((tmp_path / "results.json").read_text())["clean/mine"]
    assert (found["strategy"], found["learning_rate"], len(found["runs"])) == ("rho_loss", 0.1, 2)
    assert found["tried"] == [{"learning_rate": rate, "seed": 0, "accuracy": rate} for rate in (0.1, 0.01)]


def test_a_methods_models_are_deleted_with_its_last_test(tmp_path, monkeypatch):
    import compare
    from grid import Cell

    found = SimpleNamespace(metrics={"test_accuracy": 0.25})
    trainer = SimpleNamespace(predict=lambda *_, **__: found)
    monkeypatch.setattr(compare, "build_trainer", lambda *_, **__: (trainer, None))
    grid = grid_of(tmp_path)
    cells = [Cell("clean", "ods", 0.1, 0), Cell("clean", "ods", 0.01, 0), Cell("clean", "ods", 0.1, 1)]
    for cell, accuracy in zip(cells, (0.7, 0.6, 0.5), strict=True):
        grid.model(cell).mkdir(parents=True)
        put(grid, cell, accuracy)
    (other := grid.model(Cell("clean", "full", 0.1, 0))).mkdir(parents=True)
    compare.test(grid, cells[0])
    assert all(grid.model(cell).is_dir() for cell in cells)
    compare.test(grid, cells[2])
    assert not any(grid.model(cell).exists() for cell in cells) and other.is_dir()
    assert grid.result(cells[2])["test"] == 0.25 and grid.result(cells[2])["options"] == grid.recorded(cells[2])


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_method_of_a_shipped_grid_has_options_that_go_together(file, tmp_path, monkeypatch):
    import compare

    monkeypatch.setattr(compare, "build_trainer", lambda *arguments: (arguments, None))
    grid = compare.Grid.load(file)
    for pool, method in grid.groups():
        (recipe, _, args), _ = compare.trainer_of(grid, grid.tuning(pool, method)[0], use_cpu=True)
        assert (recipe.pool, args.strategy) == (pool, grid.methods[method]["strategy"])
        for name, value in grid.pools[pool].items():
            owner = recipe if hasattr(recipe, name) else args
            assert name in grid.methods[method] or getattr(owner, name) == value


def tiny_grid(folder: Path) -> dict[str, Any]:
    """Two methods, evaluated after the third step alone."""
    return tiny(
        folder,
        {"image_size": 32, "eval_steps": 3, "logging_steps": 2},
        methods={"full": {"strategy": "full"}, "ods": {"strategy": "ods", "selection_steps": 5}},
        pools={"redundant": {"horizontal_flip": False}},
    )


def test_a_tiny_grid_from_nothing_to_tables(tmp_path, monkeypatch):
    import compare

    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(tiny_grid(tmp_path / "results")))
    compare.main(file)
    tables = (tmp_path / "results" / "tables.md").read_text()
    assert "### Pool `redundant`" in tables and tables.count("| `full` |") == 3  # accuracy, cost, classes
    assert tables.count("| `ods` |") == 4  # and what it tells of its selections
    for name in ("accuracy_by_batches", "accuracy_by_cost", "loss_by_batches", "to_target"):
        assert (tmp_path / "results" / f"{name}.png").stat().st_size > 10_000
    found = {
        path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "results").glob("redundant/*/*.json")
    }
    assert found.keys() == {"full", "ods"}
    for method, result in found.items():
        # Trainer evaluates the end, though eval_steps does not divide it.
        assert [one["step"] for one in result["curve"]] == [3, 4] and 0 <= result["test"] <= 1
        assert (result["curve"][-1]["work"]["score"]["samples"] > 0) == (method == "ods")
    kept = json.loads((tmp_path / "results" / "results.json").read_text())
    assert kept["redundant/ods"]["runs"][0]["test"] == found["ods"]["test"]
    assert not [*(tmp_path / "results" / "models").glob("*/*")]
    # Nothing is done twice.
    monkeypatch.setattr(compare, "run", lambda *_: pytest.fail("ran again"))
    monkeypatch.setattr(compare, "test", lambda *_: pytest.fail("tested again"))
    compare.main(file)


def test_a_report_of_an_unfinished_grid_has_what_is_through_and_runs_nothing(tmp_path, monkeypatch):
    import compare
    from grid import Grid

    values = tiny_grid(tmp_path / "results")
    values["pools"] = {"clean": {}, "noisy": {}}
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(values))
    monkeypatch.setattr(compare, "run", lambda *_: pytest.fail("ran"))
    with pytest.raises(SystemExit, match=r"no method of .* is through yet: run it without --report"):
        compare.main(file, report_only=True)
    grid = Grid.load(file)
    (noisy,) = grid.tuning("noisy", "full")
    (selected,) = grid.tuning("clean", "ods")
    (untested,) = grid.tuning("clean", "full")
    put(grid, noisy, 0.2, 0.5, test=0.4)
    put(grid, selected, 0.3, 0.6, test=0.5)
    put(grid, untested, 0.3, 0.6)
    compare.main(file, report_only=True)
    kept = json.loads((tmp_path / "results" / "results.json").read_text())
    assert kept.keys() == {"noisy/full", "clean/ods"}
    tables = (tmp_path / "results" / "tables.md").read_text()
    assert "### Pool `clean`" in tables and "### Pool `noisy`" in tables
    assert (tmp_path / "results" / "to_target.png").stat().st_size > 5_000
    assert grid.result(untested) is not None and "test" not in grid.result(untested)


def test_without_a_test_no_model_is_kept(tmp_path):
    import compare

    values = tiny_grid(tmp_path / "results")
    values["options"] |= {"test_split": "none", "eval_strategy": "no"}
    values["methods"] = {"full": {"strategy": "full"}}
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(values))
    compare.main(file)
    assert "validation accuracy, %" in (tmp_path / "results" / "tables.md").read_text()
    assert not (tmp_path / "results" / "models").exists()
    # Evaluated at its end all the same.
    (run,) = json.loads((tmp_path / "results" / "results.json").read_text())["redundant/full"]["runs"]
    assert [one["step"] for one in run["curve"]] == [4]


def test_an_ablation_is_compared_seed_by_seed_with_its_strategys_defaults():
    from ablations import differences, pooled_error, variants

    results = {
        "clean/ods": entry([[0.5], [0.7]], None),
        "clean/balanced": entry([[0.4], [0.4]], None, strategy="balanced"),
        "clean/ods_raw": entry([[0.6], [0.6]], None),
        "clean/loss_balanced": entry([[0.5], [0.5]], None, strategy="loss_balanced"),
    }
    assert variants(results) == ["clean/ods_raw", "clean/loss_balanced"]
    assert differences(results, "clean/ods_raw") == pytest.approx([10, -10])
    assert differences(results, "clean/loss_balanced") == pytest.approx([10, 10])
    assert pooled_error({"one": results}) == pytest.approx((200 / 2 / 2) ** 0.5)


def test_columns_that_tell_targets_are_checked_before_the_training(tmp_path):
    from datasets import Dataset

    targets = {"old": {"column": "camera"}, "worn": {"column": "camera"}, "fog": {}}
    grid = grid_of(tmp_path, targets=targets)
    assert grid.columns() == {"camera": ["old", "worn"]}
    grid.check_columns(Dataset.from_dict({"camera": ["old", "worn"]}))
    with pytest.raises(ValueError, match="no sample of the split has 'worn'"):
        grid.check_columns(Dataset.from_dict({"camera": ["old", "new"]}))


def test_an_option_under_conditions_is_compared_seed_by_seed_too():
    from ablations import table_under_conditions

    def of(*accuracies: tuple[float, float, float]) -> dict[str, Any]:
        runs = [
            {
                "curve": [
                    {"step": 1, "accuracy": plain, "loss": 1.0, "flops": 2e12, "targets": {"fog": fog, "snow": snow}}
                ]
            }
            for plain, fog, snow in accuracies
        ]
        return {"strategy": "ods", "runs": runs}

    results = {"hidden/ods": of((0.8, 0.5, 0.7), (0.9, 0.5, 0.5)), "hidden/sqrt": of((0.7, 0.6, 0.8), (0.7, 0.4, 0.4))}
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table_under_conditions(results).splitlines()]
    # The mean over conditions is 0.6 and 0.5, and 0.7 and 0.4.
    assert lines[2] == ["`ods`", "85.0 ± 5.0", "55.0 ± 5.0", "50.0 ± 0.0", "", "2.00", "2"]
    assert lines[3] == ["`sqrt`", "70.0 ± 0.0", "55.0 ± 15.0", "50.0 ± 10.0", "+0.0 ± 10.0", "2.00", "2"]


def test_the_tables_in_the_readme_are_those_of_the_results():
    from generated import names_of_tables, with_tables
    from readme import MARK, README, table

    text = README.read_text()
    assert {*names_of_tables(text, MARK)} == {one.name for one in (RECIPES / "results").iterdir()}
    assert with_tables(text, MARK, table) == text, "run `python recipes/readme.py`"


def test_a_short_table_by_hand():
    from comparison import short_table

    results = {
        "clean/full": entry([[0.2, 0.5], [0.2, 0.7]], [0.6, 0.8]),
        "clean/ods": entry([[0.6, 0.8], [0.6, 0.8]], [0.7, 0.7]),
    }
    lines = short_table(results).splitlines()
    full, ods = ([one.strip() for one in line.strip("|").split("|")][:7] for line in lines[2:])
    assert full == ["`clean`", "`full`", "0.01", "20", "70.0 ± 10.0", "", "2.00"]
    assert ods == ["`clean`", "`ods`", "0.01", "20", "70.0 ± 0.0", "+0.0 ± 10.0", "2.00"]
    assert "test accuracy" in lines[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"methods": {"mine": {"strateggy": "ods"}}},
            r"method 'mine' on pool 'redundant': .*mean '--strategy'",
        ),
        ({"methods": {"mine": {"strategy": "odss"}}}, r"method 'mine' on pool 'redundant': strategy is 'odss'"),
        ({"pools": {"redundnat": {}}}, r"method 'full' on pool 'redundnat': pool is 'redundnat' .did you mean"),
    ],
)
def test_an_option_that_is_none_is_told_before_the_first_run(change, says, tmp_path, monkeypatch):
    import compare

    monkeypatch.setattr(compare, "run", lambda *_: pytest.fail("ran"))
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(tiny_grid(tmp_path / "results") | change))
    with pytest.raises(UsageError, match=says):
        compare.main(file)


def test_a_grid_that_is_stopped_says_that_it_goes_on(tmp_path, monkeypatch):
    import compare

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "main", stop)
    monkeypatch.setattr(sys, "argv", ["compare.py", str(tmp_path / "grid.yaml")])
    with pytest.raises(Interrupted, match="goes on with the runs that are missing") as end:
        compare.command()
    assert end.value.number == 2
