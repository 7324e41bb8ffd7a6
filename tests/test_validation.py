"""Option values that have no meaning, by name, with the nearest one that has."""

import numpy as np
import pytest
import torch
from every_case import every_case

from vecaf_hf.validation import (
    check_at_least,
    check_choice,
    check_choices,
    check_fraction,
    check_options,
    check_positive,
    whole,
)

MANY = [f"choice_{number}" for number in range(40)]


@every_case("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_kind_become_pythons(value):
    assert whole("loops", value, 3) == 3 and type(whole("loops", value, 3)) is int


@every_case("value", [True, 3.0, 2.5, "3", None, np.float32(3), float("nan"), torch.tensor(3)])
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match=r"^loops is .*; it must be a whole number of at least 1$"):
        whole("loops", value, 1)


def test_a_whole_number_too_small():
    with pytest.raises(ValueError, match="loops is 2; it must be at least 3"):
        whole("loops", 2, 3)


@every_case("check", [check_fraction, check_positive, lambda option, value: check_at_least(option, value, 0)])
@every_case("value", [True, "0.5", None, [0.5], np.bool_(True)])
def test_what_is_no_number(check, value):
    with pytest.raises(ValueError, match=r"^part is .*; it must be a number$"):
        check("part", value)


@every_case("value", [1e-9, 0.5, 1, np.float32(0.5)])
def test_fractions(value):
    check_fraction("part", value)


@every_case("value", [0, -0.5, 1.01, float("nan"), float("inf")])
def test_what_is_no_fraction(value):
    with pytest.raises(ValueError, match=rf"part is {value}; it must be above 0 and at most 1"):
        check_fraction("part", value)


def test_the_nearest_choice_in_any_case():
    with pytest.raises(ValueError, match=r"split is 'TSET' \(did you mean 'Test'\?\); choose one of Train, Test"):
        check_choice("split", "TSET", ["Train", "Test"])


def test_many_choices_are_not_all_listed():
    with pytest.raises(ValueError, match=r"choose one of choice_0, .*choice_29 and 10 more$"):
        check_choice("key", "zzz", MANY)
    with pytest.raises(TypeError, match=r"it takes choice_0, .*choice_29 and 10 more$"):
        check_options("Owner", ["zzz"], MANY)


def test_options_by_name():
    check_options("Owner", ["size", "step"], ["step", "size", "other"])
    with pytest.raises(TypeError, match=r"Owner has no option 'sise' \(did you mean 'size'\?\)$"):
        check_options("Owner", ["step", "sise"], ["step", "size"])


def test_lists_of_choices():
    check_choices("places", ("a", "b"), "abc")
    check_choices("places", [], "abc")
    with pytest.raises(ValueError, match="places is 'd'"):
        check_choices("places", ["a", "d"], "abc")
    for value in ("a", 3, None):
        with pytest.raises(ValueError, match=r"it must be a list of some of a, b, c"):
            check_choices("places", value, "abc")
