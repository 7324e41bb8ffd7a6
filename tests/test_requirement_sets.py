"""The sets of requirements that `.ci/run` tries are within the bounds of setup.cfg, and the oldest is at them."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

from every_case import every_case
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def declared() -> dict[str, Requirement]:
    options = ConfigParser()
    options.read(ROOT / "setup.cfg")
    lines = options["options"]["install_requires"] + options["options.extras_require"]["core-test"]
    found = [Requirement(line) for line in lines.splitlines() if re.match(r"\w", line)]
    return {each.name: each for each in found}


def pinned(name: str) -> dict[str, Version]:
    lines = (ROOT / ".ci" / f"{name}.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {library: Version(version) for library, version in pins}


@every_case("name", ["oldest", "today"])
def test_what_is_pinned_may_be_installed(name: str) -> None:
    requirements = declared()
    assert [
        library for library, version in pinned(name).items() if version not in requirements[library].specifier
    ] == []


def test_the_oldest_are_the_lower_bounds() -> None:
    bounds = {
        name: Version(bound.version)
        for name, each in declared().items()
        for bound in each.specifier
        if bound.operator == ">=" and name in pinned("oldest")
    }
    assert pinned("oldest") == bounds


def test_the_newest_have_no_pins() -> None:
    assert pinned("newest") == {}
