"""A walk through docs/conditions.md runs as it stands, block after block, on a few of the quickstart's images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from markdown_pages import ROOT, commands, python_blocks, shell_blocks

import vecaf_hf.cli.options as options
from vecaf_hf.cli.main import main
from vecaf_hf.inspection import embedding_map

PAGE = ROOT / "docs" / "conditions.md"
# Sizes, and nothing else.
SMALL = "--max_train_samples 200 --max_steps 4 --num_loops 2 --image_size 32 --use_cpu true"
QUIET = "--disable_tqdm true --save_strategy no --eval_strategy no"


@pytest.mark.skipif(not (ROOT / "recipes" / "data" / "fashion_mnist").is_dir(), reason="no images")
def test_every_block_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = options.parse

    def small(defaults: dict[str, Any], words: list[str]) -> options.Arguments:
        places = ["--dataset_name", str(ROOT / "recipes" / "data" / "fashion_mnist")]
        given = [str(ROOT / word) if word.endswith(".yaml") else word for word in words]
        return parse(defaults, [*given, *shlex.split(SMALL), *shlex.split(QUIET), *places])

    monkeypatch.setattr(options, "parse", small)
    monkeypatch.setattr(embedding_map, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    find, act = python_blocks(PAGE)
    exec(find, names)
    # So few samples hold no condition: the walk goes on with some.
    assert names["found"] == []
    for block in shell_blocks(PAGE):
        for words in commands(block):
            assert words[0] == "vecaf-hf" and main(words[1:]) == 0
    assert "Where it fails" in (tmp_path / "runs" / "quickstart" / "report" / "index.html").read_text()
    assert (tmp_path / "runs" / "quickstart" / "conditions" / "map.html").is_file()
    names["found"] = [type("Found", (), {"members": range(30)})]
    exec(act, names)
    assert all("select_for_0" in record.info for record in names["again"].loop_records)
