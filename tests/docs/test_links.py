"""Every file, folder and heading that a page names is there."""

from __future__ import annotations

import re
from pathlib import Path

from every_case import every_case
from markdown_pages import PAGES, ROOT, anchors, code_spans, links, shell_blocks

# The first folder of what is a path of this repository.
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"runs", "out"}

NOT_OF_REPOSITORY = {
    "vecaf_hf/captions": "in the Hugging Face home",
    "vecaf_hf/embeddings": "in the Hugging Face home",
}


def named(page: Path) -> Path:
    return page.relative_to(ROOT)


@every_case("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    found = links(page)
    assert found
    for link in found:
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@every_case("page", PAGES, ids=named)
def test_paths_in_code_are_there(page: Path) -> None:
    words = [word for text in (*shell_blocks(page), *code_spans(page)) for word in text.split()]
    paths = [
        word for word in words if re.fullmatch(r"[\w./-]+", word) and word.split("/")[0] in FOLDERS and "/" in word
    ]
    for path in {*paths} - NOT_OF_REPOSITORY.keys():
        # A word in capitals stands for the reader's own.
        assert (ROOT / path).exists() or re.search(r"/[A-Z_]+(\.\w+)?$", path), path
