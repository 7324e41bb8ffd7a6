"""How a strategy gets its name."""

import pytest
import torch

from vecaf_hf.selection import STRATEGIES, Selection, SelectionOptions, Strategy, find_strategy, select, strategy
from vecaf_hf.selection import scores as family


def define(name, **needs):
    def last(candidates, budget, options, generator):
        """The last K samples."""
        return candidates.indices[-budget:]

    last.__name__ = last.__qualname__ = name
    return strategy(**needs)(last)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(STRATEGIES, "_known", dict(STRATEGIES))


def test_a_decorated_function_goes_by_its_name_and_by_itself():
    last = define("last", needs={"losses"}, wants={"relevance"}, heeds={"class_balance"})
    assert STRATEGIES["last"] == Strategy(last, {"losses"}, {"relevance"}, "budget", {"class_balance"})
    assert find_strategy("last") is find_strategy(last) is STRATEGIES["last"]
    assert STRATEGIES["last"].summary == "The last K samples." and STRATEGIES["last"].needs_forward
    for chosen in ("last", last):
        found = select(torch.randn(9, 2), torch.rand(9), budget=3, strategy=chosen)
        assert isinstance(found, Selection) and found.indices.tolist() == [6, 7, 8]


def test_it_needs_what_it_says():
    with pytest.raises(ValueError, match="strategy 'last' needs groups, which were not given"):
        define("last", needs={"groups"})
        select(torch.randn(9, 2), torch.rand(9), budget=3, strategy="last")


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match=r"strategy 'margin' is there already, .*\.scores\.margin: choose another"):
        define("margin")
    assert STRATEGIES["margin"].select is family.margin


def test_a_cell_that_runs_again_replaces_its_strategy():
    first, second = define("last"), define("last", needs={"losses"})
    assert STRATEGIES["last"].select is second is not first


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"needs": {"losse"}}, r"needs is 'losse' \(did you mean 'losses'\?\)"),
        ({"wants": {"relevances"}}, r"wants is 'relevances' \(did you mean 'relevance'\?\)"),
        ({"needs": "losses"}, "needs is 'losses'; it must be a list"),
        ({"heeds": {"temperature"}}, "heeds is 'temperature'"),
        ({"size": "most"}, "size is 'most'; choose one of budget, all, own"),
    ],
)
def test_what_there_is_not_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        define("last", **fields)
    assert "last" not in STRATEGIES


def test_which_classes_have_shares():
    shares = {
        name: {one.shares_by_class(SelectionOptions(allocation=part)) for part in ("class", "global")}
        for name, one in STRATEGIES.items()
    }
    assert {name for name, found in shares.items() if found == {True, False}} == {"ods"}
    assert {name for name, found in shares.items() if found == {True}} == {"balanced", "trimmed", "group_balanced"}


@pytest.mark.parametrize("wrong", [None, 3, ["ods"], "", STRATEGIES])
def test_what_is_no_strategy_is_refused(wrong):
    with pytest.raises(ValueError, match="choose one of ods, "):
        find_strategy(wrong)
