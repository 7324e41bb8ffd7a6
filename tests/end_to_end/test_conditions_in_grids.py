"""A grid whose runs tell the accuracy under conditions: its rates, its tables by hand, a tiny one end to end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_grids import RECIPES, tiny
from torch.utils.data import TensorDataset

from vecaf_hf.cli.terminal import UsageError

GRID = RECIPES / "configs" / "compare_hidden.yaml"


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))


# --- Readings ---


def test_readings_by_hand() -> None:
    from readings import readings

    assert readings(0.9, None) == readings(0.9, {}) == {"accuracy": 0.9}
    found = readings(0.9, {"snow": 0.5, "fog": 0.7})
    assert found == pytest.approx({"accuracy": 0.9, "targets": 0.6, "worst": 0.5, "both": 0.75})


def trained(**options: Any) -> Any:
    """A run of six batches of four, by two selections of a pool of six and two samples."""
    selections = [SimpleNamespace(indices=torch.tensor([0, 1, 6]), weights=None)]
    weights = torch.tensor([0.5, 1.5])
    pool: Any = TensorDataset(torch.zeros(8))
    pool.targets = [0] * 6 + [1] * 2
    selections.append(SimpleNamespace(indices=torch.tensor([0, 7]), weights=weights))
    return SimpleNamespace(
        train_dataset=pool,
        class_names=["bag", "coat", "dress"],
        selection_history=selections,
        loop_records=[SimpleNamespace(step=0), SimpleNamespace(step=2)],
        state=SimpleNamespace(global_step=6),
        args=SimpleNamespace(label_column=None, train_batch_size=4),
        **options,
    )


def test_the_classes_shares_of_what_was_trained_on_count_batches_and_weights() -> None:
    from readings import class_shares

    found = class_shares(trained())
    assert found["pool"] == [0.75, 0.25, 0.0]
    # Two batches of 2/3 and 1/3, four of 1/4 and 3/4: 24 samples, and one more of each class.
    samples = 24 * np.array([2 * 2 / 3 + 4 / 4, 2 / 3 + 4 * 3 / 4, 0]) / 6 + 1
    assert found["trained"] == pytest.approx((samples / 27).tolist())


def test_accuracies_by_class_shares_by_hand() -> None:
    from readings import by_class_shares

    # Class 0 is right in two of four, class 1 in one of one; class 2 is not there.
    logits = np.array([[2, 1, -9], [2, 1, -9], [1, 1.5, -9], [1, 3, -9], [0, 1, -9]])
    labels = np.array([0, 0, 0, 0, 1])
    found = by_class_shares(logits, labels, pool=[0.8, 0.1, 0.1], trained=[0.3, 0.6, 0.1])
    assert found["balanced"]["accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert found["pool"]["accuracy"] == pytest.approx((0.8 * 0.5 + 0.1 * 1) / 0.9)
    # log 2 in favour of class 0 mends one of its errors; log(8/3 * 6) = 2.8 mends both, and costs class 1 its sample.
    assert found["balanced"]["corrected"] == pytest.approx((0.75 + 1) / 2)
    assert found["pool"]["corrected"] == pytest.approx(0.8 / 0.9)


# --- The grid ---


def grid_of(folder: Path, **changes: Any) -> Any:
    from grid import Grid

    values = {"options": {}, "methods": {"full": {}}, "pools": {"hidden": {}}, "learning_rates": [0.1, 0.01]}
    values |= {"targets": {"snow": {}, "fog": {}}, "target_samples": {"validation": 5}, "seeds": [0]}
    return Grid(folder=folder, report=folder, **{**values, **changes})


@pytest.mark.parametrize(("pick_by", "best"), [("accuracy", 0.1), ("targets", 0.01), ("worst", 0.1), ("both", 0.01)])
def test_the_rate_is_picked_by_what_the_grid_names(pick_by: str, best: float, tmp_path: Path) -> None:
    from compare import keep, summary
    from grid import Cell

    grid = grid_of(tmp_path, pick_by=pick_by, options={"test_split": "none"})
    ends = {0.1: (0.8, {"snow": 0.4, "fog": 0.4}), 0.01: (0.7, {"snow": 0.3, "fog": 0.8})}
    for rate, (accuracy, targets) in ends.items():
        cell = Cell("hidden", "full", rate, 0)
        point = {"step": 1, "accuracy": accuracy, "loss": 1.0, "work": {}, "targets": targets}
        keep(grid.file(cell), {"options": grid.recorded(cell), "curve": [point]})
    assert [cell.learning_rate for cell in grid.picked("hidden", "full")] == [best]
    # What it was picked by is kept.
    tried = summary(grid)["hidden/full"]["tried"]
    assert {one["learning_rate"]: one[pick_by] for one in tried}[best] == max(one[pick_by] for one in tried)


def test_a_targets_name_is_its_condition_unless_it_says_another(tmp_path: Path) -> None:
    from targets import Target

    grid = grid_of(tmp_path, targets={"inverted": {}, "hard snow": {"corruption": "snow", "severity": 5}})
    assert [grid.target(name) for name in grid.targets] == [Target("inverted"), Target("snow", 5)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pick_by": "wrost"}, r"pick_by of .* is 'wrost' .did you mean 'worst'"),
        (
            {"pick_by": "both", "target_samples": {"test": 5}},
            r"pick_by of .* is 'both', and no targets are seen",
        ),
        ({"target_samples": {"train": 5}}, r"a split in target_samples of .* is 'train'"),
        ({"target_samples": {"test": 0}}, r"test in target_samples of .* is 0"),
        ({"target_samples": 5}, r"target_samples of .* is 5; it must be lines"),
        ({"targets": {"snow": {"dataset_name": "x"}}}, r"has `validation`, and a target has a dataset_name"),
    ],
)
def test_what_is_wrong_with_its_targets_is_said(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    from grid import Grid

    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(tiny_grid(tmp_path / "results") | change))
    with pytest.raises(ValueError, match=says):
        Grid.load(file)


def test_a_target_that_is_no_condition_is_told_before_the_first_run(tmp_path: Path) -> None:
    import compare

    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(tiny_grid(tmp_path / "results") | {"targets": {"rotted": {}}}))
    with pytest.raises(UsageError, match=r"target 'rotted': corruption is 'rotted' .did you mean 'rotated'"):
        compare.main(file)


def test_every_method_of_the_shipped_grid_has_options_that_go_together() -> None:
    import compare

    grid = compare.Grid.load(GRID)
    compare.check(grid)
    compare.check_targets(grid)
    settings = {name: grid.settings(grid.tuning("hidden", name)[0]) for name in grid.methods}
    assert {one["max_steps"] for one in settings.values()} == {300} and grid.pick_by == "both"
    recipe, _, _ = compare.arguments_of(grid, grid.tuning("hidden", "full")[0], use_cpu=True)
    assert tuple(grid.targets) == tuple(recipe.hidden_options().conditions)
    paper = settings["ods_paper"]
    assert (paper["loss_weighting"], paper["allocation"], paper["diversity_weight"]) == ("raw", "global", 1.0)


# --- Tables by hand ---


def entry(strategy: str, plain: list[float], targets: list[list[float]], selected: float) -> dict[str, Any]:
    """What results.json holds of a method: by seed the accuracy and those in snow and in fog, reached at half way."""
    runs = []
    for accuracy, (snow, fog) in zip(plain, targets, strict=True):
        under = {"snow": snow, "fog": fog}
        point = {"accuracy": accuracy, "loss": 1.0, "targets": under}
        curve = [{"step": step, "flops": step * 1e12, **point} for step in (0, 1, 2)]
        curve[0] = curve[0] | {"accuracy": 0.0, "targets": {"snow": 0.0, "fog": 0.0}}
        run: dict[str, Any] = {"curve": curve, "test": accuracy, "targets": under}
        run["work"] = {"score": {"samples": 0, "flops": 0.0, "seconds": 0.0}}
        run["domains"] = {name: {"pool": 0.01, "selected": [selected, selected]} for name in ("snow", "fog")}
        run["by_shares"] = {name: {"accuracy": accuracy, "corrected": snow} for name in ("balanced", "pool")}
        run["records"] = [{"objective": fog}, {"objective": fog + 1, "following": 0.5}]
        runs.append(run)
    return {"strategy": strategy, "learning_rate": 0.01, "tried": [], "runs": runs}


def by_hand() -> dict[str, Any]:
    return {
        "hidden/full": entry("full", [0.8, 0.9], [[0.2, 0.4], [0.4, 0.4]], 0.01),
        "hidden/ods": entry("ods", [0.8, 0.8], [[0.5, 0.6], [0.6, 0.5]], 0.03),
    }


def cells_of(table: str) -> dict[str, dict[str, str]]:
    """Row -> column -> cell."""
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def test_every_cell_of_an_accuracy_table() -> None:
    from conditions import accuracy_table

    found = cells_of(accuracy_table(by_hand(), "hidden"))
    assert [*found] == ["`ods`", "`full`"]
    assert found["`ods`"] == {
        "plain accuracy": "80.0 ± 0.0",
        "mean over conditions, %": "55.0 ± 0.0",
        "worst condition, %": "50.0 ± 0.0",
        "snow": "55.0 ± 5.0",
        "fog": "55.0 ± 5.0",
        "mean over conditions less `full`'s, paired": "+20.0 ± 5.0",
        "worst condition less `full`'s, paired": "+20.0 ± 10.0",
        "n": "2",
    }
    # The worst is each run's own.
    assert found["`full`"]["worst condition, %"] == "30.0 ± 10.0"
    assert found["`full`"]["mean over conditions less `full`'s, paired"] == ""


def test_the_other_tables() -> None:
    from conditions import cost_table, figures_table, selected_table, shares_table

    costs = cells_of(cost_table(by_hand(), "hidden"))["`ods`"]
    # Its mean is 0.55 after one of two steps, and is on the way there at 0.35; the worst 0.5, and 0.3.
    assert costs["cost until first at `full`'s last mean over conditions"].startswith("0.32")
    assert costs["batches until first at `full`'s last worst condition"].startswith("0.30")
    selected = cells_of(selected_table(by_hand(), "hidden"))["`ods`"]
    assert [*selected.values()] == ["3.0 ± 0.0"] * 3
    shares = cells_of(shares_table(by_hand(), "hidden"))["`full`"]
    assert (
        shares["equal class shares"] == "85.0 ± 5.0" and shares["the pool's class shares, corrected"] == "30.0 ± 10.0"
    )
    figures = cells_of(figures_table(by_hand(), "hidden"))["`ods`"]
    assert figures == {"`objective`": "1.05 ± 0.05", "`following`": "0.5 ± 0"}


def test_one_report_has_all_of_it_and_the_other_what_it_does_not_say_itself(tmp_path: Path) -> None:
    import conditions
    import ood
    import report

    text = report.write_report(by_hand(), tmp_path)
    headings = (conditions.ACCURACY, conditions.COST, conditions.SELECTED, conditions.CLASSES, conditions.FIGURES)
    assert all(text.count(f"\n{heading}:\n") == 1 for heading in headings)
    for name in ("hidden_precision", "targets_by_cost", "worst_by_batches"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    other = ood.write_report(by_hand(), tmp_path)
    told = [heading for heading in headings if f"\n{heading}:\n" in other]
    assert told == [conditions.COST, conditions.CLASSES, conditions.FIGURES]
    assert "| worst condition accuracy, % |" in other and "| snow among the selected" in other


def test_the_curves_of_the_mean_and_the_worst() -> None:
    from comparison import curves_figure

    (axes,) = curves_figure(by_hand(), ["hidden"], ["full", "ods"], x="step", y="worst").axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert lines["full"] == pytest.approx([0, 30, 30]) and lines["ods"] == pytest.approx([0, 50, 50])


# --- From nothing to tables ---


def tiny_grid(folder: Path) -> dict[str, Any]:
    """Two methods, two of whose four targets are made by the package of the corruptions."""
    return tiny(
        folder,
        {"image_size": 32, "eval_steps": 2, "learning_rate": None},
        methods={"full": {"strategy": "full"}, "ods": {"strategy": "ods", "selection_steps": 5}},
        pools={"hidden": {}},
        targets={"inverted": {}, "rotated": {}, "snow": {}},
        target_samples={"validation": 20, "test": 30},
        pick_by="both",
    )


def test_a_tiny_grid_from_nothing_to_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import compare

    file = tmp_path / "grid.yaml"
    values = tiny_grid(tmp_path / "results")
    file.write_text(yaml.safe_dump(values))
    seen = []
    predict = compare.VeCAFTrainer.predict

    def counted(self: Any, dataset: Any, **options: Any) -> Any:
        seen.append((options["metric_key_prefix"], len(dataset)))
        return predict(self, dataset, **options)

    monkeypatch.setattr(compare.VeCAFTrainer, "predict", counted)
    compare.main(file)
    # Of each of two runs two points of a curve and a test, three targets each; the test split once.
    assert seen.count(("seen", 20)) == 12 and seen.count(("seen", 30)) == 6 and seen.count(("test", 60)) == 2
    text = (tmp_path / "results" / "tables.md").read_text()
    assert "Accuracy under each condition" in text and "Accuracy by class shares" in text
    kept = json.loads((tmp_path / "results" / "results.json").read_text())
    for method in ("full", "ods"):
        (cell,) = (tmp_path / "results" / "hidden" / method).glob("*.json")
        result = json.loads(cell.read_text())
        assert result["targets"].keys() == {"inverted", "rotated", "snow"}
        assert all(point["targets"].keys() == result["targets"].keys() for point in result["curve"])
        assert [len(one["selected"]) for one in result["domains"].values()] == [2] * 4
        assert [record["loop"] for record in result["records"]] == [0, 1]
        # The test split has as many images of each class.
        assert result["by_shares"]["balanced"]["accuracy"] == pytest.approx(result["test"])
        assert result["classes"]["pool"] != result["classes"]["trained"] or method == "full"
        (run,) = kept[f"hidden/{method}"]["runs"]
        assert {"targets", "domains", "by_shares", "records"} <= run.keys()
    assert result["records"][0]["info"].keys() == run["records"][0].keys()
    # What is seen on the way moves nothing.
    plain = {name: value for name, value in values.items() if not name.startswith(("target", "pick"))}
    folder = str(tmp_path / "plain")
    file.write_text(
        yaml.safe_dump(plain | {"folder": folder, "report": folder, "methods": {"full": {"strategy": "full"}}})
    )
    compare.main(file)
    (run,) = json.loads((tmp_path / "plain" / "results.json").read_text())["hidden/full"]["runs"]
    (other,) = kept["hidden/full"]["runs"]
    assert run["test"] == other["test"]
    assert [one["loss"] for one in run["curve"]] == [one["loss"] for one in other["curve"]]
