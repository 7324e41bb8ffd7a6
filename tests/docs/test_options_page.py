"""docs/options.md is the options themselves. `python tests/docs/test_options_page.py` writes it anew."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pdoc.docstrings import google
from transformers import TrainingArguments

# Also when it is run as a script.
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1]))
from every_case import every_case
from options import PoolArguments

from vecaf_hf import Captioner, CEACallback, TextEncoder, VeCAFArguments
from vecaf_hf.augmentation.options import CEAOptions
from vecaf_hf.cli.comparison import CompareArguments
from vecaf_hf.cli.main import InspectArguments
from vecaf_hf.cli.options import RecipeArguments
from vecaf_hf.selection import SelectionOptions

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
MEASURED = PAGE.with_name("measured.md")
# name, default, help
Option = tuple[str, object, str]
REQUIRED = inspect.Parameter.empty

HEAD = "<!-- Written by `python tests/docs/test_options_page.py`. -->\n\n# Options"


def of_fields(options: type, *known: type) -> Iterator[Option]:
    """The fields of a dataclass, but for those of other ones."""
    skipped = {field.name for one in known for field in dataclasses.fields(one)}
    for field in dataclasses.fields(options):
        if field.name not in skipped:
            default = field.default_factory() if field.default is dataclasses.MISSING else field.default
            yield field.name, default, field.metadata["help"]


def of_arguments(documented: type) -> Iterator[Option]:
    """What a class is made with, as its docstring has it; keywords that it passes on are left out."""
    described = re.findall(r"^ - \*\*(\w+):\*\* +(.*(?:\n   .*)*)", google(inspect.getdoc(documented)), re.M)
    helps = {name: " ".join(text.split()) for name, text in described}
    for name, parameter in inspect.signature(documented).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            yield name, parameter.default, helps[name]


def table(options: Iterable[Option]) -> str:
    known = set(re.findall(r"^\| (?:<a id=\"\w+\"></a>)?`(\w+)` \|", MEASURED.read_text(), re.M))
    rows = ["| option | default | |", "|---|---|---|"]
    for name, default, text in options:
        value = " ".join(map(str, default)) if isinstance(default, list) else default
        shown = "" if value in (REQUIRED, "") else f"`{value}`"
        more = f" [More]({MEASURED.name}#{name})." if name in known else ""
        rows.append(f"| `{name}` | {shown} | {text}{more} |")
    return "\n".join(rows)


# title -> what takes the options, and these
SECTIONS: dict[str, tuple[str, list[Option]]] = {
    "Selection": (
        "Of `vecaf_hf.selection.select(..., **options)` and of `VeCAFArguments`. README lists "
        "[the strategies](../README.md#strategies).",
        [*of_fields(SelectionOptions)],
    ),
    "Loops and scoring": (
        "Of `VeCAFArguments`, besides those of selection and of transformers' `TrainingArguments`.",
        [*of_fields(VeCAFArguments, TrainingArguments, SelectionOptions)],
    ),
    "CEA": (
        "Of `CEACallback`. `vecaf_hf.caption_dataset(dataset, captioner)` writes a column for `captions`.",
        [*of_arguments(CEACallback), *of_fields(CEAOptions)],
    ),
    "Captioner": (
        "Of `Captioner`, which `CEACallback` and `caption_dataset` take where they take a captioner's Hub id.",
        [*of_arguments(Captioner)],
    ),
    "Text encoder": (
        "Of `TextEncoder`, which `CEACallback` takes where it takes a text encoder's Hub id.",
        [*of_arguments(TextEncoder)],
    ),
    "Recipes": (
        "Of recipes, `vecaf-hf inspect` and `vecaf-hf compare`, on the command line and in YAML files: these, all of "
        "`VeCAFArguments`, and those of CEA from `step_size` on.",
        [*of_fields(RecipeArguments)],
    ),
    "Pools of the recipes": (
        "Of the scripts in `recipes/` alone, besides the options above.",
        [*of_fields(PoolArguments, RecipeArguments)],
    ),
    "vecaf-hf inspect": ("Of this command alone.", [*of_fields(InspectArguments)]),
    "vecaf-hf compare": ("Of this command alone.", [*of_fields(CompareArguments)]),
}


def page() -> str:
    parts = [f"## {title}\n\n{intro}\n\n{table(options)}" for title, (intro, options) in SECTIONS.items()]
    return "\n\n".join([HEAD, *parts]) + "\n"


def test_page_is_the_options() -> None:
    assert PAGE.read_text() == page(), "run `python tests/docs/test_options_page.py`"


@every_case("title", SECTIONS)
def test_every_option_says_what_it_does(title: str) -> None:
    options = SECTIONS[title][1]
    assert options
    for name, _, text in options:
        assert text.endswith(".") and not {"\n", "|"} & {*text}, name


def test_what_is_known_is_of_options_there_are() -> None:
    known = re.findall(r"^\| (?:<a id=\"\w+\"></a>)?`(\w+)` \|", MEASURED.read_text(), re.M)
    assert known and set(known) <= {name for _, options in SECTIONS.values() for name, _, _ in options}


if __name__ == "__main__":
    PAGE.write_text(page())
