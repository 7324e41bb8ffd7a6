"""Source and target accuracy: the shipped grid, its table and figure by hand, and a tiny grid from end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_grids import tiny

from vecaf_hf.cli.terminal import UsageError

RECIPES = Path(__file__).parents[2] / "recipes"
GRID = RECIPES / "configs" / "ood.yaml"


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))


def entry(strategy: str, tests: list[float], snow: list[float], selected: list[list[float]] | None) -> dict[str, Any]:
    """What results.json holds of a method: accuracies by seed, and what each loop's selection has of snow."""
    runs = []
    for seed, test in enumerate(tests):
        run: dict[str, Any] = {"curve": [{"step": 1, "accuracy": 0.1, "loss": 1.0, "flops": (seed + 1) * 1e12}]}
        run |= {"test": test, "targets": {"snow": snow[seed]}}
        if selected is not None:
            run["domains"] = {"snow": {"pool": 0.01, "selected": selected[seed]}}
        runs.append(run)
    return {"strategy": strategy, "learning_rate": 0.01, "tried": [], "runs": runs}


def by_hand() -> dict[str, Any]:
    return {
        "domains/full": entry("full", [0.8, 0.9], [0.4, 0.6], [[0.01, 0.01]] * 2),
        "domains/caption": entry("ods", [0.9, 0.9], [0.6, 0.6], [[0.05, 0.03], [0.09, 0.07]]),
        "clean/full": entry("full", [0.8, 0.9], [0.4, 0.6], None),
    }


def cells_of(table: str) -> dict[str, dict[str, str]]:
    """Row -> column -> cell."""
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def test_every_cell_of_a_table_made_by_hand() -> None:
    from ood import table

    found = cells_of(table(by_hand(), "domains"))
    assert [*found] == ["`full`", "`caption`"]
    assert found["`caption`"] == {
        "source accuracy, %": "90.0 ± 0.0",
        # By seed +10 and 0: stdev 7.07, over the root of two.
        "source less `full`'s, paired": "+5.0 ± 5.0",
        "snow accuracy, %": "60.0 ± 0.0",
        "snow less `full`'s, paired": "+10.0 ± 10.0",
        # Four and eight times a hundredth.
        "snow among the selected, times its part of the pool": "6.0 ± 2.0",
        "all-in TFLOPs": "1.50",
        "n": "2",
    }
    assert found["`full`"]["source less `full`'s, paired"] == ""
    assert found["`full`"]["snow accuracy, %"] == "50.0 ± 10.0"
    # A pool without samples of a domain has nothing to find.
    assert not [name for name in cells_of(table(by_hand(), "clean"))["`full`"] if "among" in name]


def test_a_figure_by_hand() -> None:
    from comparison import methods_of
    from conditions import precision_figure

    figure = precision_figure(methods_of(by_hand(), "domains"))
    (axes,) = figure.axes
    (bars,) = axes.containers
    line, _, _ = bars.lines
    # Not `full`, which selects nothing; means over seeds, in percent.
    assert bars.get_label() == "caption" and np.allclose(line.get_ydata(), [7, 5])
    (rate,) = [one for one in axes.get_lines() if one.get_label() == "part of the pool"]
    assert np.allclose(rate.get_ydata(), 1)


def test_a_report_has_a_figure_of_each_pool_with_domains(tmp_path: Path) -> None:
    from ood import write_report

    text = write_report(by_hand(), tmp_path)
    assert (tmp_path / "ood.md").read_text() == text and "### Pool `domains`" in text and "### Pool `clean`" in text
    assert [one.name for one in tmp_path.glob("*.png")] == ["domains_precision.png"]


def test_methods_that_select_alike_share_a_line():
    from conditions import lines_of, precision_figure

    found = {
        "full": entry("full", [0.8], [0.4], [[0.01, 0.01]]),
        "plain": entry("balanced", [0.8], [0.4], [[0.02, 0.03]]),
        "moved": entry("balanced", [0.7], [0.6], [[0.02, 0.03]]),
        "other": entry("balanced", [0.8], [0.4], [[0.02, 0.04]]),
    }
    assert lines_of(found) == {"plain": "plain,\nmoved", "other": "other"}
    _, labels = precision_figure(found).axes[0].get_legend_handles_labels()
    assert {*labels} == {"plain,\nmoved", "other", "part of the pool"}


def test_every_method_of_the_shipped_grid_has_options_that_go_together() -> None:
    import compare

    grid = compare.Grid.load(GRID)
    compare.check(grid)
    assert grid.targets.keys() == {"snow", "fog"} and grid.pools.keys() == {"domains"}
    assert {"full", "random", "balanced", "activeft", "no_shift", "random_direction"} <= grid.methods.keys()
    settings = {name: grid.settings(grid.tuning("domains", name)[0]) for name in grid.methods}
    assert {one.get("max_steps") for one in settings.values()} == {300}, "at equal batches"
    assert settings["no_shift"] == settings["caption"] | {"step_size": 0.0}
    assert settings["random_direction"] == settings["caption"] | {"toward": "random"}


def tiny_grid(folder: Path) -> dict[str, Any]:
    """Plain finetuning and a prompted selection, whose options are in a file that it names."""
    prompted = yaml.safe_load(GRID.read_text())["methods"]["difference"] | {"selection_steps": 5}
    file = folder.with_name("prompted.yaml")
    file.write_text(yaml.safe_dump({name: value for name, value in prompted.items() if value is not None}))
    return tiny(
        folder,
        {"eval_steps": 4},
        methods={
            "full": {"strategy": "full"},
            "difference": {"config": str(file), "text_encoder": None, "strategy": None},
        },
        pools={"domains": {}},
        targets={"snow": {"corruption": "snow", "severity": 5}},
    )


def test_a_tiny_grid_from_nothing_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import compare
    import ood

    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(tiny_grid(tmp_path / "results")))
    monkeypatch.setattr(sys, "argv", ["ood.py", str(file)])
    ood.command(ood.__doc__, ood.write_report)
    found = cells_of((tmp_path / "results" / "ood.md").read_text().split("\n\n")[1].strip())
    assert found.keys() == {"`full`", "`difference`"}
    kept = json.loads((tmp_path / "results" / "results.json").read_text())
    for method, row in found.items():
        (run,) = kept[f"domains/{method.strip('`')}"]["runs"]
        assert row["source accuracy, %"] == f"{100 * run['test']:.1f}"
        assert row["snow accuracy, %"] == f"{100 * run['targets']['snow']:.1f}"
        # Two loops, of a pool with two samples of each in 200.
        assert {name: len(one["selected"]) for name, one in run["domains"].items()} == {"snow": 2, "fog": 2}
        assert {one["pool"] for one in run["domains"].values()} == {0.01}
    assert kept["domains/full"]["runs"][0]["domains"]["snow"]["selected"] == [0.01, 0.01]
    assert (tmp_path / "results" / "domains_precision.png").stat().st_size > 10_000
    assert not [*(tmp_path / "results" / "models").glob("*/*")]
    # Nothing is done twice.
    monkeypatch.setattr(compare, "run", lambda *_: pytest.fail("ran again"))
    monkeypatch.setattr(compare, "test", lambda *_: pytest.fail("tested again"))
    ood.command(ood.__doc__, ood.write_report)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"targets": {"snow": {"corruption": "snoww"}}}, r"target 'snow': corruption is 'snoww' .did you mean 'snow'"),
        ({"targets": {"snow": {"corruption": "snow", "sevrity": 1}}}, r"target 'snow': .*'sevrity'"),
        (
            {"targets": {"snow": {"corruption": "snow", "dataset_name": "/no/such"}}},
            r"target 'snow': there is no folder",
        ),
        ({"options": {"test_split": "none"}}, r"test_split is none, and the targets snow are read with the test split"),
    ],
)
def test_a_wrong_target_is_told_before_the_first_run(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    import compare

    values = tiny_grid(tmp_path / "results")
    values |= change | {"options": values["options"] | change.get("options", {})}
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError, match=says):
        compare.main(file)


def test_results_of_other_targets_are_refused(tmp_path: Path) -> None:
    import compare

    file = tmp_path / "grid.yaml"
    values = tiny_grid(tmp_path / "results")
    file.write_text(yaml.safe_dump(values))
    grid = compare.Grid.load(file)
    (cell,) = grid.tuning("domains", "full")
    curve = [{"step": 4, "accuracy": 0.5, "loss": 1.0, "work": {}}]
    compare.keep(grid.file(cell), {"options": grid.recorded(cell), "curve": curve})
    assert grid.result(cell) is not None
    file.write_text(yaml.safe_dump(values | {"targets": {"snow": {"corruption": "snow", "severity": 1}}}))
    with pytest.raises(ValueError, match=r"was made with targets .*5.*not .*1.*: remove it"):
        compare.Grid.load(file).result(cell)
