"""The option `hidden` of a recipe: in YAML, as JSON, and what is wrong with it."""

from __future__ import annotations

import logging

import pytest
from every_case import every_case
from options import PoolArguments, parse
from pools.hidden import HiddenOptions

from vecaf_hf.cli.terminal import UsageError


def test_it_is_a_mapping_or_json() -> None:
    expected = HiddenOptions(conditions=["fog"], say=True)
    assert PoolArguments(hidden={"conditions": ["fog"], "say": True}).hidden_options() == expected
    words = ["--pool", "hidden", "--hidden", '{"conditions": ["fog"], "say": true}', "--use_cpu", "true"]
    recipe, _, _ = parse({}, words)
    assert recipe.pool_options() == {"options": expected}
    assert PoolArguments(hidden="none").hidden is None
    assert PoolArguments(pool="hidden").pool_options() == {"options": HiddenOptions()}
    assert PoolArguments(hidden={"say": True}).pool_options() == {}


@every_case(
    ("given", "says"),
    [
        ("{", r"hidden is '{', which is no JSON"),
        ("[1]", r"hidden is '\[1\]'; it must be a mapping"),
        ('{"sya": true}', r"an option in hidden is 'sya' .did you mean 'say'"),
        ('{"part": 2}', r"hidden: part is 2; it must be above 0 and at most 1"),
    ],
)
def test_what_is_wrong_with_it_is_said(given: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse({}, ["--hidden", given, "--use_cpu", "true"])


def test_captions_that_say_the_condition_must_be_read(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        PoolArguments(pool="hidden")
        PoolArguments(pool="hidden", hidden={"say": True}, captions="caption")
        assert not caplog.records
        PoolArguments(pool="hidden", hidden={"say": True})
    assert "the pool hidden tells its conditions in its column 'caption' alone" in caplog.text
