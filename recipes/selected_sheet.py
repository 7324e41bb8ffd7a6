"""What methods select first, with a prompt and without, on a contact sheet (the paper's Figure 3).

    python recipes/selected_sheet.py recipes/configs/ood.yaml balanced no_shift no_shift_fog

Of each method's first selection on each of the grid's pools as many samples as fit are drawn at random; the heading
tells what part of the selected samples is of each domain. Nothing is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch

sys.path.insert(0, str(Path(__file__).parent))
from compare import trainer_of
from grid import Cell, Grid
from pools.rare import CAPTION, rare_shares
from torch import Tensor

from vecaf_hf.cli.terminal import Parser, run_in_terminal
from vecaf_hf.inspection.look import look
from vecaf_hf.reporting.contact_sheet import Tile, contact_sheet
from vecaf_hf.seeding import seed_of
from vecaf_hf.validation import check_choice

COLUMNS, ROWS = 8, 2
SEED = 0


def first_selection(grid: Grid, cell: Cell) -> tuple[Any, Tensor]:
    """A run's pool, and what is selected of it first. LongTensor [K]."""
    trainer, _ = trainer_of(grid, cell)
    return trainer.train_dataset, look(trainer, None).selection.indices


def heading(method: str, dataset: Any, selected: Tensor) -> str:
    """`caption: 600 selected, snow 8.0% (of the pool 1.0%), fog 2.0% (of the pool 1.0%)`."""
    shares = rare_shares(dataset, [selected])
    parts = [f"{name} {one['selected'][0]:.1%} (of the pool {one['pool']:.1%})" for name, one in shares.items()]
    return ", ".join([f"{method}: {len(selected)} selected", *parts])


def tiles(dataset: Any, image: str, selected: Tensor) -> list[Tile]:
    """Some of the selected samples, drawn at random, with their captions where the pool has them."""
    order = torch.randperm(len(selected), generator=torch.Generator().manual_seed(seed_of(SEED)))
    drawn = dataset.with_format(None).select(selected[order[: COLUMNS * ROWS]].tolist())
    return [Tile(sample[image], [sample.get(CAPTION) or ""]) for sample in drawn]


def write_sheet(grid: Grid, methods: Sequence[str]) -> list[Path]:
    """Of each pool one sheet with these methods, in the grid's report."""
    matplotlib.use("Agg")
    for method in methods:
        check_choice("a method of the grid", method, grid.methods, or_callable=False)
    grid.report.mkdir(parents=True, exist_ok=True)
    written = []
    for pool in grid.pools:
        groups = []
        for method in methods:
            # At the first of the rates and seeds.
            cell = grid.tuning(pool, method)[0]
            dataset, selected = first_selection(grid, cell)
            groups.append((heading(method, dataset, selected), tiles(dataset, grid.image_column(cell), selected)))
        written.append(grid.report / f"{pool}_selected.png")
        contact_sheet(groups, COLUMNS).savefig(written[-1], dpi=110)
    return written


def command() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("grid", type=Path, metavar="GRID", help="The grid's YAML file, such as those in configs/.")
    parser.add_argument("methods", nargs="+", metavar="METHOD", help="Of the grid, from top to bottom of the sheet.")
    asked = parser.parse_args()
    for file in write_sheet(Grid.load(asked.grid), asked.methods):
        print(file)


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, command))
