"""The pages that users read: their links, their code blocks and the code inside their text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "recipes").glob("**/README.md")), *sorted((ROOT / "docs").glob("*.md"))]
MARKDOWN = MarkdownIt("commonmark").enable("table")


def tokens(page: Path) -> Iterator[Token]:
    """All tokens, those inside a paragraph after it."""
    for token in MARKDOWN.parse(page.read_text()):
        yield token
        yield from token.children or []


def python_blocks(page: Path) -> list[str]:
    return [token.content for token in tokens(page) if token.type == "fence" and token.info == "python"]


def shell_blocks(page: Path) -> list[str]:
    """Blocks that are indented, or fenced as any other language."""
    return [
        token.content
        for token in tokens(page)
        if token.type == "code_block" or (token.type == "fence" and token.info != "python")
    ]


def code_spans(page: Path) -> list[str]:
    return [token.content for token in tokens(page) if token.type == "code_inline"]


def commands(text: str) -> list[list[str]]:
    """The words of each command of some shell text, without variables before it: `&&` and ends of lines divide them, a
    backslash joins lines."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [shlex.split(one) for line in lines for one in line.split("&&") if one.strip()]
    return [[*dropwhile(re.compile(r"[A-Z_]+=").match, words)] for words in found]


def links(page: Path) -> list[str]:
    """What links and pictures point to, but for other sites."""
    found = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in tokens(page)]
    return [target for target in found if target and not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """The headings, as GitHub names them, and places that have a name of their own."""
    text = page.read_text()
    found = MARKDOWN.parse(text)
    titles = [found[place + 1].content for place, token in enumerate(found) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles} | {
        *re.findall(r'<a id="([^"]+)">', text)
    }
