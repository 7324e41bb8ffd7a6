"""The grid that `compare.py` runs: what is asked for, what is there, what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import yaml
from datasets import Dataset
from readings import READINGS, readings
from targets import Target, samples_of

from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.printable import listed
from vecaf_hf.validation import check_choice, check_positive, whole

# Options of the machine, not of the result: processes that share a grid may have others.
OF_THE_MACHINE = {"output_dir", "use_cpu", "dataloader_pin_memory"}
# Differing options that a message lists.
LISTED = 5
SCALES = ("full", "small")
# Splits that targets are made of.
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Cell:
    """One run."""

    pool: str
    method: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.pool}/{self.method}/rate{self.learning_rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """A YAML file's content; what it leaves out is that of the file beside it that it names as its `base`, and options
    are added to that one's. A list in place of methods or pools chooses from the base's. `small` holds what is else at
    the scale of that name: keys that take the place of the file's (a list chooses from these), and options that take
    the place of each run's, unless those are `none`.

    Args:
        folder: Where each cell's result goes.
        report: Where what is made of them goes.
        options: Of every run, as a recipe takes them.
        methods: Name -> the options that make it.
        pools: Names in `pools.making.POOLS`, or others where the option `pool` is set -> options of the runs on
            that pool, which a method's override.
        learning_rates: Tried for each method on each pool.
        tuning_seeds: Pick the rate.
        seeds: Run at the picked rate; the tuning seeds among them.
        targets: Conditions that the picked runs' models see the test split under: name -> what `Target` is made of,
            `{}` where the name is that of a corruption, `inverted` or `rotated`.
        target_samples: Split -> most of its images that are seen under each target, of each class as large a part.
            Without `test` all; under `validation` each run sees its targets at every point of its curve too, and
            without it not at all.
        pick_by: What a rate is picked by on validation, of `READINGS`: `accuracy`, or with targets there `targets` (the
            mean over them), `worst` or `both` (the mean of plain accuracy and `targets`).
        reached: Pool -> accuracies, parts of 1, of which is told when they are reached.
    """

    # Options of a comparison of another kind, which are no recipe's.
    OWN: ClassVar[frozenset[str]] = frozenset()
    # What a test tells beside the accuracy.
    MEASURES: ClassVar[tuple[str, ...]] = ()

    folder: Path
    report: Path
    options: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    pools: dict[str, dict[str, Any]]
    learning_rates: list[float]
    seeds: list[int]
    tuning_seeds: list[int] = field(default_factory=lambda: [0])
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    target_samples: dict[str, int] = field(default_factory=dict)
    pick_by: str = "accuracy"
    reached: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path, scale: str = "full") -> Grid:
        values = _read(file)
        small = values.pop("small", {})
        _check(file, values)
        check_choice("scale", scale, SCALES, or_callable=False)
        if scale == "small":
            values = _scaled_down(file, values, small)
            _check(file, values)
        return cls(**{**values, "folder": Path(values["folder"]), "report": Path(values["report"])})

    def groups(self) -> Iterator[tuple[str, str]]:
        """(pool, method); the methods that come first in the file are through first."""
        return ((pool, method) for method in self.methods for pool in self.pools)

    def tuning(self, pool: str, method: str) -> list[Cell]:
        return [Cell(pool, method, rate, seed) for rate in self.learning_rates for seed in self.tuning_seeds]

    def picked(self, pool: str, method: str) -> list[Cell] | None:
        """The cells at the rate whose tuning runs ended best on validation; None while one of them is missing."""
        tuned = [(cell, self.result(cell)) for cell in self.tuning(pool, method)]
        if any(result is None for _, result in tuned):
            return None
        ends: dict[float, list[float]] = {}
        for cell, result in tuned:
            assert result is not None
            ends.setdefault(cell.learning_rate, []).append(self.reading(result["curve"][-1]))
        best = max(ends, key=lambda rate: fmean(ends[rate]))
        return [Cell(pool, method, best, seed) for seed in self.seeds]

    def reading(self, point: Mapping[str, Any]) -> float:
        """What a point of a curve is judged by."""
        return readings(point["accuracy"], point.get("targets"))[self.pick_by]

    def target(self, name: str) -> Target:
        """One of the grid's targets.

        Raises:
            TypeError, ValueError: It is none.
        """
        return Target(**{"corruption": name, **self.targets[name]})

    def columns(self) -> dict[str, list[str]]:
        """The dataset's columns that tell targets, and which."""
        found: dict[str, list[str]] = {}
        for target in map(self.target, self.targets):
            if target.column is not None:
                found.setdefault(target.column, []).append(target.corruption)
        return found

    def check_columns(self, split: Dataset) -> None:
        """Raise a ValueError unless a split has samples of every target that a column tells: before the training."""
        for column, values in self.columns().items():
            for value in values:
                samples_of(split, column, value)

    def is_through(self, pool: str, method: str) -> bool:
        """Whether all picked runs, and their tests where there are any, have a result."""
        results = [self.result(cell) for cell in self.picked(pool, method) or []]
        return bool(results) and all(found and ("test" in found or not self.tests) for found in results)

    def settings(self, cell: Cell) -> dict[str, Any]:
        """The options of a cell's run; those that are None are left out."""
        values = {"pool": cell.pool, **self.options, **self.pools[cell.pool], **self.methods[cell.method]}
        values |= {"learning_rate": cell.learning_rate, "seed": cell.seed}
        return {name: value for name, value in values.items() if value is not None}

    def recorded(self, cell: Cell) -> dict[str, Any]:
        """Those of a cell's options that its result holds: whatever the result depends on."""
        of_targets = {"targets": self.targets, "target_samples": self.target_samples}
        values = self.settings(cell) | {name: value for name, value in of_targets.items() if value}
        return {name: value for name, value in values.items() if name not in OF_THE_MACHINE}

    def trainer_options(self, cell: Cell) -> dict[str, Any]:
        """What a cell's trainer is given in place of a recipe's own."""
        return {}

    def image_column(self, cell: Cell) -> str:
        """The dataset's column of images."""
        return str(self.settings(cell).get("image_column", CEAOptions.image_column))

    def file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}.json"

    def models(self, pool: str, method: str) -> Path:
        return self.folder / "models" / pool / method

    def model(self, cell: Cell) -> Path:
        return self.folder / "models" / cell.name

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """A cell's result; None where there is none.

        Raises:
            ValueError: It was made with other options than the grid's.
        """
        file = self.file(cell)
        if not file.is_file():
            return None
        result: dict[str, Any] = json.loads(file.read_text())
        made, asked = result.get("options", {}), self.recorded(cell)
        different = [name for name in {**asked, **made} if made.get(name) != asked.get(name)]
        if different:
            what = listed([f"{name} {made.get(name)!r} (not {asked.get(name)!r})" for name in different], LISTED)
            raise ValueError(
                f"{file} was made with {what}: remove it to have it made anew, or give the grid another folder"
            )
        return result

    def cells(self, pool: str, method: str) -> list[Cell]:
        """A method's runs that are known by now: its other seeds wait for its rate."""
        return list(dict.fromkeys(self.tuning(pool, method) + (self.picked(pool, method) or [])))

    def untrained(self) -> list[Cell]:
        """Known cells without a result."""
        return [cell for group in self.groups() for cell in self.cells(*group) if self.result(cell) is None]

    def left(self) -> int:
        """Runs of the whole grid without a result, those among them that are not known yet."""
        later = len(set(self.seeds) - set(self.tuning_seeds))
        return len(self.untrained()) + later * sum(self.picked(*group) is None for group in self.groups())

    @property
    def tests(self) -> bool:
        """Whether the picked runs' models see the test split."""
        return self.options.get("test_split") != "none"

    def untested(self) -> list[Cell]:
        """Picked cells with a result, whose models have not seen the test split, where there is one."""
        cells = (cell for group in self.groups() if self.tests for cell in self.picked(*group) or [])
        return [cell for cell in cells if "test" not in (self.result(cell) or {"test": None})]

    def missing(self) -> list[Cell]:
        """What can be done now; tests come first: a method's models are kept until then."""
        return self.untested() + self.untrained()


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}") from error
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise ValueError(f"{file} holds {kind}; it must have lines of `key: value`")
    if "base" not in values:
        return values
    return _added(file, _read(file.parent / values.pop("base")), values)


def _added(file: Path, base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """What a file says over what its base says; so for `small`."""
    both = {**base, **values, "options": {**(base.get("options") or {}), **(values.get("options") or {})}}
    both |= _chosen(file, base, values)
    if "small" in base and "small" in values:
        both["small"] = _added(file, base["small"], values["small"])
    return both


def _chosen(file: Path, base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The methods and pools that a list in their place names, where the base has them."""
    chosen = {}
    for kind in ("methods", "pools"):
        if isinstance(values.get(kind), list) and isinstance(base.get(kind), dict):
            for one in values[kind]:
                check_choice(f"one of the {kind} of {file}", one, base[kind], or_callable=False)
            chosen[kind] = {one: base[kind][one] for one in values[kind]}
    return chosen


def _scaled_down(file: Path, values: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """A grid at small scale."""
    instead = small.get("options", {})

    def swapped(options: dict[str, Any]) -> dict[str, Any]:
        # Without a text encoder, or a test, there is none at small scale either.
        return {name: value if value == "none" else instead.get(name, value) for name, value in options.items()}

    groups = {kind: {name: swapped(one) for name, one in values[kind].items()} for kind in ("methods", "pools")}
    options = {**instead, **swapped(values["options"])}
    return {**values, **groups, **small, **_chosen(file, groups, small), "options": options}


def _check(file: Path, values: Mapping[str, Any]) -> None:
    for key in values:
        check_choice(f"a key of {file}", key, [one.name for one in fields(Grid)], or_callable=False)
    needed = [one.name for one in fields(Grid) if one.default is one.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{file} lacks {listed(missing)}")
    if not isinstance(values["options"], dict):
        raise ValueError(
            f"options of {file} is {values['options']!r}; it must have lines of `option: value`, or be {{}}"
        )
    for name in ("methods", "pools", "targets"):
        given = values.get(name, {})
        if not (isinstance(given, dict) and all(isinstance(one, dict) for one in given.values())):
            raise ValueError(f"{name} of {file} is {values[name]!r}; it must be names, each with its options or {{}}")
    _check_targets(file, values)
    for name in ("learning_rates", "seeds", "tuning_seeds"):
        if not (isinstance(values.get(name, [0]), list) and values.get(name, [0])):
            raise ValueError(f"{name} of {file} is {values[name]!r}; it must be a list")
    for rate in values["learning_rates"]:
        if isinstance(rate, str):
            raise ValueError(
                f"learning_rates of {file} holds {rate!r}, which is a text to YAML; a number has a dot, as in 1.0e-3"
            )
        check_positive(f"learning_rates of {file}", rate)


def _check_targets(file: Path, values: Mapping[str, Any]) -> None:
    """Raise a ValueError unless what is said about targets goes together."""
    samples = values.get("target_samples", {})
    if not isinstance(samples, dict):
        raise ValueError(f"target_samples of {file} is {samples!r}; it must be lines of `split: number`")
    for split, count in samples.items():
        check_choice(f"a split in target_samples of {file}", split, SPLITS, or_callable=False)
        whole(f"{split} in target_samples of {file}", count, 1)
    targets = values.get("targets", {})
    pick_by = values.get("pick_by", "accuracy")
    check_choice(f"pick_by of {file}", pick_by, READINGS, or_callable=False)
    if pick_by != "accuracy" and not (targets and "validation" in samples):
        raise ValueError(
            f"pick_by of {file} is {pick_by!r}, and no targets are seen on validation: give targets, and "
            "target_samples with `validation`"
        )
    if "validation" in samples and any("dataset_name" in one for one in targets.values()):
        raise ValueError(
            f"target_samples of {file} has `validation`, and a target has a dataset_name: ImageNet-C's images are "
            "those of its test split alone"
        )
