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
        plain = settings[f"caption{end}"]
        assert plain["domain_prompt"] == prompt and plain["alignment"] == "dual"
        assert settings[f"no_shift{end}"] == plain | {"step_size": 0.0}
        for name, toward in (("difference", None), ("learned_difference", None), ("random_direction", "random")):
            assert settings[f"{name}{end}"] == plain | {"toward": toward or name}
