"""What the paper's tables will take in its own setting, told by their YAML files before anything is run.

FLOPs are those that the cost meter would count, by the planner of `vecaf-hf inspect`: of every run of a table its
batches (three forward passes a sample), what it scores at each boundary, and its evaluations. A forward pass is counted
on a model of the same architecture without weights. What the selection itself takes, text encoders (a caption names a
class, so that there are as many texts as classes), the test and the networks of learn_loss, ta_vaal and clipstyler are
not in it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import timm
import torch
from compare import arguments_of
from comparison import markdown
from grid import Cell, Grid
from run import INSPECTED, NAMES, grid_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vecaf_hf.cli.cells import NOT_COUNTED
from vecaf_hf.cli.options import RecipeArguments
from vecaf_hf.inspection.budget import RunSizes, UnitCosts, foreseen
from vecaf_hf.loop.schedule import LoopSchedule

# FLOP/s that training sustains on one A100, assumed: a fifth of its 312e12 in bfloat16, in which the paper's files run.
THROUGHPUT = 60e12


class Sizes(NamedTuple):
    """Images of a dataset's training split, and classes."""

    train: int
    classes: int


DATASETS = {
    "uoft-cs/cifar10": Sizes(50_000, 10),
    "flwrlabs/caltech101": Sizes(8_677, 101),
    "ILSVRC/imagenet-1k": Sizes(1_281_167, 1_000),
}


class Plan(NamedTuple):
    """FLOPs of a run: what it is paid with, and its evaluations besides."""

    work: float
    evaluation: float

    @property
    def total(self) -> float:
        return self.work + self.evaluation


@cache
def forward_flops(model: str, image_size: int, classes: int) -> float:
    """Of one image, as the cost meter counts them. `model` is timm's id on the Hub."""
    with torch.device("meta"):
        made = timm.create_model(model.removeprefix("timm/"), pretrained=False, num_classes=classes).eval()
        image = torch.empty(1, 3, image_size, image_size)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        made(image)
    return counter.get_total_flops()


def planned(grid: Grid, cell: Cell) -> Plan:
    """A run's, if no weights, no images and no network are there."""
    recipe, _, args = arguments_of(grid, cell, use_cpu=True)
    data = DATASETS[recipe.dataset_name]
    evaluated, pool = _sizes(recipe, data)
    schedule = LoopSchedule.of_run(args, pool, args.train_batch_size, False, args.seed)
    flops = forward_flops(recipe.model_name_or_path, recipe.image_size, data.classes)
    sizes = RunSizes(schedule.budget, evaluated, has_cea=recipe.text_encoder is not None)
    budget = foreseen(args, schedule, sizes, UnitCosts(flops, flops, 0.0, 0.0, 0.0))
    found = {kind: work.flops for kind, work in budget.total.items()}
    return Plan(sum(found[kind] for kind in found.keys() - NOT_COUNTED), sum(found[kind] for kind in NOT_COUNTED))


def _sizes(recipe: RecipeArguments, data: Sizes) -> tuple[int, int]:
    """Images of validation and of the pool, where both are of the training split."""
    held_out = round(recipe.validation_fraction * data.train)
    return held_out, data.train - held_out - round(recipe.test_fraction * data.train)


def cells(name: str) -> list[tuple[Grid, Cell]]:
    """All runs of a table in the paper's setting; none of what trains nothing."""
    grid = grid_of(name, "full")
    if name in INSPECTED:
        return []
    return [
        (grid, Cell(pool, method, rate, seed))
        for pool, method in grid.groups()
        for rate in grid.learning_rates
        for seed in grid.seeds
    ]


def hours(flops: float) -> str:
    return f"{flops / THROUGHPUT / 3600:,.1f}"


def table() -> str:
    """One row a table: runs, their FLOPs and GPU hours; those that another row has too are counted in both, and once in
    the last row."""
    rows = [["", "runs", "EFLOPs", "of which evaluation", "planned GPU hours"]]
    everything: dict[str, Plan] = {}
    for name in NAMES:
        plans = {f"{grid.folder}/{cell.name}": planned(grid, cell) for grid, cell in cells(name)}
        everything |= plans
        rows.append([f"`{name}`", *_row(list(plans.values()))])
    rows.append(["together", *_row(list(everything.values()))])
    return markdown(rows)


def _row(plans: list[Plan]) -> list[str]:
    total, evaluation = sum(plan.total for plan in plans), sum(plan.evaluation for plan in plans)
    share = f"{evaluation / total:.0%}" if total else ""
    return [str(len(plans)), f"{total / 1e18:.2f}", share, hours(total)]
