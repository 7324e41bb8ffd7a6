"""The page of pools beyond one machine says what its results file says, and its formulas are those of the code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from every_case import every_case
from markdown_pages import ROOT, python_blocks
from pixels import collate, to_pixels
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

import vecaf_hf
from vecaf_hf import VeCAFArguments
from vecaf_hf.selection import SelectionOptions, select

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.syspath_prepend(str(RECIPES / "benchmarks"))


def test_the_page_is_what_the_results_say() -> None:
    from generated import names_of_tables
    from large_pools_page import MARK, PAGE, RESULTS, TABLES, page

    results, text = json.loads(RESULTS.read_text()), PAGE.read_text()
    assert {*names_of_tables(text, MARK)} == {*TABLES}
    assert page(text, results) == text, "run `python recipes/benchmarks/large_pools_page.py`"


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


def test_of_classes_that_are_alike_each_has_its_share() -> None:
    from large_pools_plan import by_class, selection_flops

    assert by_class(4000, 40, 8, 4) == 4 * selection_flops(1000, 10, 8)


@every_case(("seconds", "said"), [(30, "30 s"), (150, "2.5 min"), (7201, "2.0 h"), (10**6, "12 days")])
def test_times_are_told_as_people_say_them(seconds: float, said: str) -> None:
    from large_pools_page import hours

    assert hours(seconds) == said


def test_the_pages_blocks_run(
    raw_shards: list[str], make_vit: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a small pool and model, with fewer steps."""
    stream = datasets.load_dataset("parquet", data_files=raw_shards, split="train", streaming=True)
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, **how: load(name, **how) if "data_files" in how else stream
    )
    small = {"max_steps": 4, "num_loops": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    small |= {"scoring_fraction": 0.5, "selection_budget": 8}

    def arguments(folder: str, **options: Any) -> VeCAFArguments:
        return VeCAFArguments(str(tmp_path / folder), **{**options, **small})

    monkeypatch.setattr(vecaf_hf, "VeCAFArguments", arguments)
    first, second = python_blocks(ROOT / "docs" / "large_pools.md")
    names: dict[str, Any] = {"model": make_vit(), "collate": lambda rows: collate(to_rows(rows))}
    exec(compile(first, "large_pools.md", "exec"), names)
    assert names["trainer"].state.global_step == 4
    names |= {"files": raw_shards, "augment": to_pixels, "centre": to_pixels, "collate": collate}
    # Where a machine has no folder of that name.
    second = second.replace('"/scratch/pool"', repr(str(tmp_path / "scratch")))
    exec(compile(second, "large_pools.md", "exec"), names)
    names["trainer"].train()
    assert len(names["trainer"].selection_history) == 2


def to_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of samples as they are stored."""
    batch = to_pixels({name: [row[name] for row in rows] for name in ("image", "label")})
    return [{name: values[row] for name, values in batch.items()} for row in range(len(rows))]


@pytest.fixture
def raw_shards(fashion: datasets.Dataset, tmp_path: Path) -> list[str]:
    files = [str(tmp_path / f"{shard}.parquet") for shard in range(4)]
    for shard, file in enumerate(files):
        fashion.shard(4, shard).to_parquet(file)
    return files
