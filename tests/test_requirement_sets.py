"""The sets of requirements that `.ci/run` tries are within the bounds of setup.cfg, and the oldest is at them."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

from every_case import every_case
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def declared(with_tests: bool = False) -> dict[str, Requirement]:
    options = ConfigParser()
    options.read(ROOT / "setup.cfg")
    lines = options["options"]["install_requires"]
    lines += options["options.extras_require"]["core-test"] if with_tests else ""
    found = [Requirement(line) for line in lines.splitlines() if re.match(r"\w", line)]
    return {each.name: each for each in found}


def pinned(name: str) -> dict[str, Version]:
    lines = (ROOT / ".ci" / f"{name}.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {library: Version(version) for library, version in pins}


@every_case("name", ["oldest", "today"])
def test_what_is_pinned_may_be_installed(name: str) -> None:
    pins = pinned(name)
    for library, requirement in declared(with_tests=True).items():
        assert library not in pins or pins[library] in requirement.specifier, library


def test_the_oldest_are_the_lower_bounds() -> None:
    pins = pinned("oldest")
    for library, requirement in declared().items():
        bounds = [Version(bound.version) for bound in requirement.specifier if bound.operator == ">="]
        assert bounds == [pins[library]], library


def test_the_newest_have_no_pins() -> None:
    assert pinned("newest") == {}
