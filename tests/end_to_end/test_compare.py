"""The comparison grid: which rate is picked, how targets are read off curves, and a tiny grid end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPES = Path(__file__).parents[2] / "recipes"
GRIDS = sorted([*(RECIPES / "configs").glob("compare_*.yaml"), *(RECIPES / "configs" / "ablations").glob("*.yaml")])


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))


def point(step: int, accuracy: float, flops: float = 0.0) -> dict[str, Any]:
    counted = {"score": flops, "train": 3.0 * step, "evaluate": 1e9}
    work = {kind: {"flops": value, "samples": 0, "seconds": 0.0} for kind, value in counted.items()}
    return {"step": step, "accuracy": accuracy, "work": work}


def grid_of(folder: Path, **changes: Any) -> Any:
    from compare import Grid

    values = {"options": {}, "methods": {"full": {}, "ods": {}}, "pools": {"clean": {}}, "learning_rates": [0.1, 0.01]}
    return Grid(folder=folder, report=folder, seeds=[0, 1], **{**values, **changes})


def test_evaluation_is_no_cost():
    from comparison import cost

    assert cost(point(10, 0.5, flops=7)["work"]) == 37


@pytest.mark.parametrize(
    ("target", "expected"), [(0.1, 10), (0.2, 10), (0.5, 25), (0.4, 20), (0.6, 30), (0.61, math.nan)]
)
def test_a_target_is_reached_on_the_line_between_two_evaluations(target, expected):
    from comparison import steps, to_target

    curve = [point(10, 0.2), point(20, 0.4), point(30, 0.6), point(40, 0.5)]
    assert to_target(curve, target, steps) == pytest.approx(expected, nan_ok=True)


def test_seeds_are_averaged_point_by_point():
    from comparison import mean_curve, summary_of

    curves = [[point(5, 0.2, 1), point(10, 0.4, 1)], [point(5, 0.4, 3), point(10, 0.8, 5)]]
    curve = mean_curve([summary_of({"curve": one, "losses": []}) for one in curves])
    assert [one["step"] for one in curve] == [5, 10]
    assert [one["accuracy"] for one in curve] == pytest.approx([0.3, 0.6])
    assert [one["flops"] for one in curve] == pytest.approx([17, 33])


def test_the_rate_is_picked_on_validation_by_the_tuning_seeds_alone(tmp_path):
    from compare import Cell, write

    grid = grid_of(tmp_path)
    assert len(grid.untrained()) == 4 and grid.left() == 6 and grid.picked("clean", "ods") is None
    for rate, accuracy in ((0.1, 0.7), (0.01, 0.6)):
        write(grid.file(Cell("clean", "ods", rate, 0)), {"curve": [point(1, 0.9), point(2, accuracy)]})
    assert grid.picked("clean", "ods") == [Cell("clean", "ods", 0.1, 0), Cell("clean", "ods", 0.1, 1)]
    assert Cell("clean", "ods", 0.1, 1) in grid.untrained() and Cell("clean", "ods", 0.01, 1) not in grid.untrained()
    # Another seed's result moves nothing.
    write(grid.file(Cell("clean", "ods", 0.1, 1)), {"curve": [point(1, 0.9), point(2, 0.0)]})
    assert grid.picked("clean", "ods")[0].learning_rate == 0.1
    assert set(grid.untested()) == set(grid.picked("clean", "ods"))
    assert grid.left() == 3  # two rates of full, and then its other seed
    assert not grid_of(tmp_path, options={"test_split": "none"}).untested()


def test_a_misspelt_key_of_a_grid_is_refused(tmp_path):
    from compare import Grid

    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump({"folder": "x", "learning_rate": [1]}))
    with pytest.raises(TypeError, match=r"grid.yaml has no option 'learning_rate' .did you mean 'learning_rates'"):
        Grid.load(file)


def test_a_grid_takes_from_its_base_what_it_leaves_out(tmp_path):
    from compare import Grid

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


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_method_of_a_shipped_grid_has_options_that_go_together(file, tmp_path, monkeypatch):
    import compare

    monkeypatch.setattr(compare, "build_trainer", lambda *arguments: (arguments, None))
    grid = compare.Grid.load(file)
    for pool, method in grid.groups():
        (recipe, _, args), _ = compare.trainer_of(grid, grid.tuning(pool, method)[0], use_cpu=True)
        assert (recipe.pool, args.strategy) == (pool, grid.methods[method]["strategy"])
        assert all(
            getattr(args, name) == value for name, value in grid.pools[pool].items() if name not in grid.methods[method]
        )


def test_a_tiny_grid_from_nothing_to_tables(tmp_path, monkeypatch):
    import compare

    values = yaml.safe_load((RECIPES / "configs" / "compare_fashion_mnist.yaml").read_text())
    tiny = {
        "dataset_name": str(RECIPES / "data" / "fashion_mnist"),
        "max_train_samples": 200,
        "validation_split": "validation",
        "image_size": 32,
        "max_steps": 4,
        "num_loops": 2,
        "selection_budget": 40,
        "rescore": "full",
        "total_train_batch_size": 8,
        "eval_steps": 2,
        "logging_steps": 2,
        "use_cpu": True,
    }
    values |= {
        "folder": str(tmp_path / "results"),
        "report": str(tmp_path / "results"),
        "options": values["options"] | tiny,
        "methods": {"full": {"strategy": "full"}, "ods": {"strategy": "ods", "selection_steps": 5}},
        "pools": {"redundant": {"horizontal_flip": False}},
        "learning_rates": [1e-3],
        "seeds": [0],
    }
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(values))
    compare.main(file)
    tables = (tmp_path / "results" / "tables.md").read_text()
    assert "### Pool `redundant`" in tables and tables.count("| `full` |") == tables.count("| `ods` |") == 2
    for name in ("accuracy_by_batches", "accuracy_by_cost", "losses", "to_target"):
        assert (tmp_path / "results" / f"{name}.png").stat().st_size > 10_000
    found = {
        path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "results").glob("redundant/*/*.json")
    }
    assert found.keys() == {"full", "ods"}
    for method, result in found.items():
        assert [one["step"] for one in result["curve"]] == [2, 4] and 0 <= result["test"] <= 1
        assert (result["curve"][-1]["work"]["score"]["samples"] > 0) == (method == "ods")
    kept = json.loads((tmp_path / "results" / "results.json").read_text())
    assert kept["redundant/ods"]["runs"][0]["test"] == found["ods"]["test"]
    # Nothing is done twice.
    monkeypatch.setattr(compare, "run", lambda *_: pytest.fail("ran again"))
    monkeypatch.setattr(compare, "test", lambda *_: pytest.fail("tested again"))
    compare.main(file)
