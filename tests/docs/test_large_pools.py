"""The page of pools beyond one machine says what its results file says, and its formulas are those of the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from every_case import every_case
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTConfig, ViTForImageClassification

from vecaf_hf.selection import SelectionOptions, select
from vecaf_hf.selection.allocation import shares
from vecaf_hf.selection.candidates import Turn

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.syspath_prepend(str(RECIPES / "benchmarks"))


def test_the_page_is_what_the_results_say() -> None:
    from generated import names_of_tables
    from large_pools_page import FOLDER, MARK, PAGE, TABLES, further, page

    results, text = json.loads((FOLDER / "results.json").read_text()), PAGE.read_text()
    assert {*names_of_tables(text, MARK)} == {*TABLES}
    assert page(text, results) == text, "run `python recipes/benchmarks/large_pools_page.py`"
    assert further(results) == (FOLDER / "tables.md").read_text()


def test_flops_of_a_forward_pass_are_what_the_meter_counts() -> None:
    from large_pools_plan import EMBEDDING, FORWARD_FLOPS

    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig(num_labels=1000)).eval()
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(pixel_values=torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() == FORWARD_FLOPS
    assert model.config.hidden_size == EMBEDDING


@every_case(("size", "budget"), [(600, 1), (3000, 20), (3000, 400), (40_000, 300)])
@every_case("diversity_weight", [0.0, 1.0])
def test_flops_of_a_selection_are_what_ods_counts(size: int, budget: int, diversity_weight: float) -> None:
    from large_pools_plan import selection_flops

    embeddings = torch.randn(size, 8, generator=torch.Generator().manual_seed(0))
    options = SelectionOptions(allocation="global", selection_steps=12, diversity_weight=diversity_weight)
    given = {name: getattr(options, name) for name in ("allocation", "selection_steps", "diversity_weight")}
    # A single centroid settles at once.
    counted = select(embeddings, torch.ones(size), budget=budget, strategy="ods", selection_tolerance=0.0, **given)
    if counted.info["steps"] == 12:
        assert counted.info["flops"] == selection_flops(size, budget, 8, options)
    else:
        assert budget == 1


def test_selecting_cell_by_cell_takes_each_cells_share(tmp_path: Path) -> None:
    from sharded_pool import cell_of_each, claims_of, fitted_centres, select_by_cell, synthetic, write_shards

    pool = synthetic(3000)
    cells = cell_of_each(pool.embeddings, fitted_centres(pool.embeddings, 4, seed=0))
    claims, sizes = claims_of(pool, cells, 4, "size")
    budgets = shares(60, claims, sizes, Turn(0))
    chosen, _ = select_by_cell(write_shards(pool, cells, 4, tmp_path), budgets, seed=0)
    assert len(chosen.unique()) == 60
    assert torch.equal(torch.bincount(cells[chosen], minlength=4), budgets)


def test_cells_as_labels_are_selected_from_by_their_sizes() -> None:
    """What the page says of pools without labels."""
    from sharded_pool import cell_of_each, claims_of, fitted_centres, synthetic

    pool = synthetic(2000)
    cells = cell_of_each(pool.embeddings, fitted_centres(pool.embeddings, 4, seed=0))
    chosen = select(pool.embeddings, pool.losses, budget=40, strategy="ods", labels=cells, class_balance=0)
    claims, sizes = claims_of(pool, cells, 4, "size")
    assert torch.equal(torch.bincount(cells[chosen.indices], minlength=4), shares(40, claims, sizes, Turn(0)))


def test_a_selection_in_the_whole_pool_has_a_lower_objective_than_a_random_one() -> None:
    from large_pools import by_chance, by_fraction, synthetic

    pool = synthetic(4000)
    chance, whole, none = (
        by_chance(pool, 0.02, seeds=2),
        by_fraction(pool, 0.02, 1.0, seeds=2),
        by_fraction(pool, 0.02, 0.02, seeds=2),
    )
    assert whole["objective"][0] < chance["objective"][0]
    # As many candidates as are selected leave no choice.
    assert none["objective"][0] == pytest.approx(chance["objective"][0], abs=0.5)
    assert none["objective"][0] > whole["objective"][0]


def test_what_is_kept_of_the_decrease_by_hand() -> None:
    from large_pools_readings import kept

    def found(objective: float) -> dict[str, object]:
        return {"selected": 0.01, "fraction": 1.0, "objective": [objective, 0.0]}

    results = {"chance": [found(2.0)], "fractions": [found(-2.0)]}
    assert kept(results, {"selected": 0.01, "objective": [1.0, 0.0]}) == 0.25


def test_a_fit_follows_a_stages_work() -> None:
    from large_pools_readings import fitted

    points = [(size, 1.0 + 2e-6 * size) for size in (1000, 2000, 4000)]
    assert fitted("store", points, 0.002)(10**9) == pytest.approx(2001)


def test_the_fewest_cells_fit_the_memory() -> None:
    from large_pools_plan import MEMORY, fitting_cells, planned_bytes

    assert fitting_cells(10**6, 1000, width=3.0) == 1
    cells = fitting_cells(10**8, 10**5, width=3.0)
    assert planned_bytes(3 * 10**8 // cells, 3 * 10**5 // cells) <= MEMORY
    assert planned_bytes(3 * 10**8 // (cells // 2), 3 * 10**5 // (cells // 2)) > MEMORY


@every_case(
    ("seconds", "said"),
    [(0.33, "0.33 s"), (90, "90 s"), (600, "10 min"), (9.8 * 3600, "9.8 h"), (5 * 86400, "5.0 days")],
)
def test_seconds_are_told_in_words(seconds: float, said: str) -> None:
    from large_pools_page import hours

    assert hours(seconds) == said
