"""Does a selection pay on my data? Methods side by side on a recipe's own options, each at its best learning rate."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.cells import Curve, keep
from vecaf_hf.cli.options import Arguments, parse_with, read_config
from vecaf_hf.cli.terminal import UsageError
from vecaf_hf.printable import listed
from vecaf_hf.selection import STRATEGIES
from vecaf_hf.validation import check_choice, check_positive

# The options as they stand, whatever strategy they name.
GIVEN = "given"
REFERENCE = "full"
# Of the options' own learning rate, where none are given.
TRIED = (1 / 3, 1.0, 3.0)
# What a run of a comparison does not do, whatever the options say.
NOT_DONE = "--report_to none --save_strategy no --load_best_model_at_end false --push_to_hub false --disable_tqdm true"
# What it goes by; CEA is compared where a text encoder is named.
DEFAULTS = {"eval_strategy": "epoch", "text_encoder": "none"}
# Differing options that a message lists.
LISTED = 5


@dataclass
class CompareArguments:
    methods: list[str] = field(
        default_factory=lambda: [REFERENCE, "balanced", "ods", GIVEN],
        metadata={"help": f"Strategies, and `{GIVEN}`: the options as they stand. `{REFERENCE}` is always among them."},
    )
    learning_rates: list[float] | None = field(
        default=None,
        metadata={"help": "Tried for each method by the first seed; a third, one and three learning_rate if not set."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Of the runs at the picked rates."})
    folder: str | None = field(
        default=None, metadata={"help": "Where results and page are written; `comparison` in output_dir if not set."}
    )

    def __post_init__(self) -> None:
        # As YAML has them: a lone value, and 1e-4 as text.
        self.methods = _listed(self.methods)
        self.seeds = [int(seed) for seed in _listed(self.seeds)]
        if self.learning_rates is not None:
            self.learning_rates = [float(rate) for rate in _listed(self.learning_rates)]
        for method in self.methods:
            check_choice("methods", method, [*STRATEGIES, GIVEN], or_callable=False)
        self.methods = list(dict.fromkeys([REFERENCE, *self.methods]))
        for rate in self.learning_rates or []:
            check_positive("learning_rates", rate)


class Cell(NamedTuple):
    """One run."""

    method: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}/rate{self.learning_rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """Runs of several methods, whose results a folder keeps.

    Args:
        words: Of the command line: the recipe's options, and those of the comparison.
        methods: REFERENCE, and others.
        learning_rates: Tried for each method by the first seed; the best on validation is picked.
        seeds: Of the runs at the picked rate.
        folder: Where the results are.
    """

    words: Sequence[str]
    methods: Sequence[str]
    learning_rates: Sequence[float]
    seeds: Sequence[int]
    folder: Path

    @classmethod
    def of(cls, words: Sequence[str], **texts: str) -> Comparison:
        """As a command line asks for it.

        Raises:
            UsageError: It has what is no option, or a value that an option cannot have.
        """
        own, (_, _, args) = parse_with(CompareArguments, DEFAULTS, list(words), **texts)
        rates = own.learning_rates or [float(f"{part * args.learning_rate:.3g}") for part in TRIED]
        # What is the same run is made once.
        methods = [one for one in own.methods if one != GIVEN or args.strategy not in own.methods]
        if len(methods) < 2:
            raise UsageError(f"methods names {REFERENCE} alone: there is nothing to compare it with")
        folder = Path(own.folder or Path(str(args.output_dir)) / "comparison")
        return cls(words, methods, rates, list(dict.fromkeys(own.seeds)), folder)

    # --- What there is to do ---

    def tuning(self, method: str) -> list[Cell]:
        return [Cell(method, rate, self.seeds[0]) for rate in self.learning_rates]

    def picked(self, method: str) -> list[Cell] | None:
        """The runs at the rate that ended best on validation; None while one of the tried is missing."""
        tuned = {cell: self.result(cell) for cell in self.tuning(method)}
        if not all(tuned.values()):
            return None
        best = max(tuned, key=lambda cell: cast(dict[str, Any], tuned[cell])["curve"][-1]["accuracy"])
        return [Cell(method, best.learning_rate, seed) for seed in self.seeds]

    def missing(self) -> list[Cell]:
        known = [cell for method in self.methods for cell in self.tuning(method) + (self.picked(method) or [])]
        return [cell for cell in dict.fromkeys(known) if self.result(cell) is None]

    def left(self) -> int:
        unknown = sum(self.picked(method) is None for method in self.methods)
        return len(self.missing()) + (len(self.seeds) - 1) * unknown

    def file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}.json"

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What a run told; None where it has not run.

        Raises:
            ValueError: It ran with other options.
        """
        file = self.file(cell)
        if not file.is_file():
            return None
        result: dict[str, Any] = json.loads(file.read_text())
        made, asked = result["options"], given_options(self.words)
        different = [name for name in {**asked, **made} if made.get(name) != asked.get(name)]
        if different:
            what = listed([f"{name} {made.get(name)!r} (not {asked.get(name)!r})" for name in different], LISTED)
            raise ValueError(f"{file} was made with {what}: remove it to have it made anew, or choose another folder")
        return result

    # --- A run ---

    def arguments(self, cell: Cell) -> Arguments:
        strategy = [] if cell.method == GIVEN else ["--strategy", cell.method]
        if cell.method == REFERENCE:
            # Plain finetuning.
            strategy += ["--text_encoder", "none"]
        words = [*self.words, *strategy, "--learning_rate", str(cell.learning_rate), "--seed", str(cell.seed)]
        words += ["--output_dir", str(self.folder / "scratch" / cell.name), *NOT_DONE.split()]
        return parse_with(CompareArguments, DEFAULTS, words)[1]

    def check(self) -> None:
        """Raise a ValueError where a method cannot run: not after hours of the others."""
        for method in self.methods:
            try:
                _, _, args = self.arguments(self.tuning(method)[0])
            except UsageError as error:
                raise UsageError(f"method {method}: {error}") from error
            if args.world_size > 1:
                raise ValueError(
                    "a comparison runs in one process: start it without a launcher, several times to share its runs"
                )
            if args.eval_strategy == "no":
                raise ValueError("eval_strategy is no, and a comparison goes by the validation split: set it to epoch")

    def do(self, cell: Cell) -> None:
        """Train a run, see the test split where there is one, and keep what it tells."""
        begun = time.perf_counter()
        recipe, cea, args = self.arguments(cell)
        trainer, test = build_trainer(recipe, cea, args)
        if trainer.eval_dataset is None:
            raise ValueError("nothing is held out to compare by: name a validation_split, or set validation_fraction")
        curve = Curve(trainer)
        trainer.add_callback(curve)
        trainer.train()
        result: dict[str, Any] = {"options": given_options(self.words), "curve": curve.points}
        if test is not None:
            # Told for picked runs alone, and nothing is picked by it.
            result["test"] = (trainer.predict(cast(Any, test)).metrics or {})["test_accuracy"]
        keep(self.file(cell), {**result, "seconds": time.perf_counter() - begun})
        shutil.rmtree(str(args.output_dir), ignore_errors=True)

    def runs(self) -> dict[str, list[dict[str, Any]]]:
        """Method -> its runs at the picked rate, all of which are there."""
        found = {method: [self.result(cell) for cell in self.picked(method) or []] for method in self.methods}
        return {method: cast(list[dict[str, Any]], runs) for method, runs in found.items()}

    def tried(self, method: str) -> dict[float, float]:
        """Learning rate -> validation accuracy of the first seed."""
        ends = {cell.learning_rate: self.result(cell) for cell in self.tuning(method)}
        return {rate: result["curve"][-1]["accuracy"] for rate, result in ends.items() if result is not None}


def given_options(words: Sequence[str]) -> dict[str, Any]:
    """The options of a command line and of its file, without those of the comparison. Values of a word are text."""
    typed: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            name, *value = word[2:].split("=", 1)
            values = typed[name.replace("-", "_")] = value
        else:
            values.append(word)
    file = typed.pop("config", [])
    given: dict[str, Any] = (read_config(file[-1]) if file else {}) | typed
    not_of_runs = {*CompareArguments.__dataclass_fields__, "output_dir"}
    return {name: value for name, value in given.items() if name not in not_of_runs}


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def accuracies(runs: Sequence[dict[str, Any]]) -> list[float]:
    """Run by run, of the test split where there is one, else of validation."""
    return [run.get("test", run["curve"][-1]["accuracy"]) for run in runs]
