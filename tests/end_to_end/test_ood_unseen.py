"""The shipped grid of a domain that the pool has no image of."""

from __future__ import annotations

from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
GRID = RECIPES / "configs" / "ood_unseen.yaml"


def test_every_method_has_options_that_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))
    import compare

    grid = compare.Grid.load(GRID)
    compare.check(grid)
    assert grid.targets == compare.Grid.load(GRID.with_name("ood.yaml")).targets
    assert grid.pools == {"clean": {}}
    settings = {name: grid.settings(grid.tuning("clean", name)[0]) for name in grid.methods}
    assert {one.get("max_steps") for one in settings.values()} == {300}, "at equal batches"
    for end, prompt in (("", "It's a snowy day."), ("_fog", "It's a foggy day.")):
        moved = settings[f"difference{end}"]
        assert moved["domain_prompt"] == prompt and moved["alignment"] == "dual" and moved["strategy"] == "balanced"
        assert settings[f"difference_half{end}"] == moved | {"step_size": 0.5}
        assert settings[f"random_direction_half{end}"] == moved | {"step_size": 0.5, "toward": "random"}
    moved = settings["difference"]
    assert settings["caption"] == {name: value for name, value in moved.items() if name != "toward"}
    for name, toward in (("learned_difference", "learned_difference"), ("random_direction", "random")):
        assert settings[name] == moved | {"toward": toward}
    for end, prompt in (("", "It's a snowy day."), ("_fog", "It's a foggy day.")):
        assert settings[f"clipstyler{end}"]["restyle"]["prompt"] == prompt
        assert settings[f"clipstyler{end}"]["strategy"] == "full"
