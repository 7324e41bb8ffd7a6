"""README's command builds the API's pages; every public name is on them, with its docstring rendered."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from every_case import every_case

ROOT = Path(__file__).parents[2]
MODULES = ["vecaf_hf", "vecaf_hf.selection", "vecaf_hf.inspection"]
# Values, which have no docstring of their own: their module's says what they are.
VALUES = {"__version__", "STRATEGIES"}
NAMES = [(module, name) for module in MODULES for name in importlib.import_module(module).__all__ if name not in VALUES]
TIMEOUT = 300


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The HTML of each module."""
    readme = (ROOT / "README.md").read_text()
    words = shlex.split(re.findall(r"^    EAGER_IMPORT=1 (pdoc .*)$", readme, re.M)[0])
    folder = tmp_path_factory.mktemp("api")
    words[words.index("-o") + 1] = str(folder)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "EAGER_IMPORT": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    built = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert built.returncode == 0, built.stderr
    assert "Warn" not in built.stderr + built.stdout, built.stderr
    return {module: (folder / f"{module.replace('.', '/')}.html").read_text() for module in MODULES}


def section(html: str, name: str) -> str:
    """What the page says about a name and its members."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', html, re.S)
    assert found, f"{name} is not on the page"
    return found[1]


def docstring(html: str, name: str) -> str:
    """A name's rendered docstring; empty without one."""
    after = html.partition(f'href="#{name}"></a>')[2].partition('class="headerlink"')[0]
    found = re.search(r'<div class="docstring">(.*?)</div>', after, re.S)
    return found[1] if found else ""


@every_case(("module", "name"), NAMES)
def test_public_name_is_documented(pages: dict[str, str], module: str, name: str) -> None:
    assert docstring(section(pages[module], name), name)


@every_case(("module", "name"), NAMES)
def test_what_it_takes_is_listed(pages: dict[str, str], module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    text = section(pages[module], name)
    for parameter in taken(found):
        if "help" in getattr(getattr(found, "__dataclass_fields__", {}).get(parameter), "metadata", {}):
            assert docstring(text, f"{name}.{parameter}"), parameter
        else:
            assert re.search(rf"<strong>(\*\*)?{parameter}:</strong>", docstring(text, name)), parameter


def taken(found: Any) -> Iterable[str]:
    """What a function or class takes; of a dataclass its own fields: inherited ones stand elsewhere."""
    return found.__annotations__ if dataclasses.is_dataclass(found) else inspect.signature(found).parameters


@every_case(("module", "name"), NAMES)
def test_methods_are_documented(pages: dict[str, str], module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    members = vars(found).items() if inspect.isclass(found) else ()
    text = section(pages[module], name)
    for member, value in members:
        if not member.startswith("_") and (inspect.isroutine(value) or hasattr(value, "__get__")):
            assert docstring(text, f"{name}.{member}"), member


@every_case("module", MODULES)
def test_no_markup_is_left_over(pages: dict[str, str], module: str) -> None:
    for text in re.findall(r'<div class="docstring">(.*?)</div>', pages[module], re.S):
        # A section's title that was understood is a heading.
        prose = re.sub(r"<(pre|code|h6)\b.*?</\1>", "", text, flags=re.S)
        assert not re.search(r"(Args|Arguments|Attributes|Raises|Returns|Yields):|```|#####|`", prose)
        assert "&amp;#" not in text, prose


@every_case("module", MODULES)
def test_links_inside_a_page_lead_somewhere(pages: dict[str, str], module: str) -> None:
    there = {*re.findall(r'id="([^"]+)"', pages[module])}
    assert {*re.findall(r'href="#([^"]+)"', pages[module])} <= there


def test_values_are_named_by_their_module(pages: dict[str, str]) -> None:
    selection = pages["vecaf_hf.selection"]
    assert "STRATEGIES" in selection.partition('class="module-info"')[2].partition("</section>")[0]
