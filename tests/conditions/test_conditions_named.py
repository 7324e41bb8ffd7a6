"""A group is called what its captions or images have and its classes have not; where nothing stands out, nothing."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from vecaf_hf.conditions.naming import PHRASES, name_by_captions, name_by_images

KINDS = {0: "dress", 1: "coat", 2: "bag"}
COLOURS = ("red", "blue", "green", "grey", "white")


def captions(ending: str, count: int) -> dict[int, list[str | None]]:
    return {
        label: [f"A {COLOURS[number % 5]} {kind}{ending}" for number in range(count)] for label, kind in KINDS.items()
    }


def test_the_words_that_set_it_apart_are_its_name() -> None:
    for ending, name in ((", turned by a quarter.", "turned by a quarter"), (" in Schnee", "in schnee")):
        found = name_by_captions(captions(ending, 10), captions("", 100))
        assert (found.text, found.by) == (name, "captions")
        assert len(found.captions) == 3 and all(ending in caption for caption in found.captions)


def test_a_part_of_the_group_that_says_it_is_enough() -> None:
    group = captions("", 12)
    for label, kind in KINDS.items():
        group[label][:6] = [f"a {kind} in the fog"] * 6
    found = name_by_captions(group, captions("", 200))
    assert found.text == "in the fog" and all("fog" in caption for caption in found.captions)


def test_a_word_that_another_group_has_too_is_no_name() -> None:
    """Of the surest, which more samples have, but not of this group alone."""
    group, others = captions(" on a foggy day", 40), captions("", 1000)
    for label, snowy in captions(" on a snowy day", 40).items():
        others[label] += snowy
    assert name_by_captions(group, others).text == "on a foggy day"
    # A phrase that breaks off is none, either; one that ends with a preposition of its own is.
    assert name_by_captions(captions(" with dirt of", 40), captions("", 1000)).text == "with dirt"
    assert name_by_captions(captions(" switched on", 40), captions("", 1000)).text == "switched on"


def test_the_word_of_a_class_is_no_name() -> None:
    """Nine in ten of the group are dresses, and one in three of all samples."""
    group = {0: captions("", 45)[0], 1: captions("", 5)[1]}
    found = name_by_captions(group, captions("", 300))
    assert (found.text, found.by, found.score) == ("", "", 0.0) and len(found.captions) == 3


def test_without_captions_there_is_no_name() -> None:
    assert name_by_captions({0: [None] * 20}, {0: [None] * 50}).captions == ()
    assert name_by_captions({0: ["in snow"] * 20}, {}).text == ""
    few = {0: ["a dress in snow", *["a red dress"] * 29]}
    assert name_by_captions(few, {0: ["a red dress"] * 300}).text == ""


def test_images_are_named_by_the_phrase_that_they_lie_along() -> None:
    generator = torch.Generator().manual_seed(0)
    plain, moves = torch.randn(64, generator=generator), torch.randn(len(PHRASES), 64, generator=generator)
    said = plain + 0.5 * moves
    outside = torch.randn(200, 64, generator=generator)
    inside = torch.randn(30, 64, generator=generator)
    assert name_by_images(inside, outside, plain, said, PHRASES) is None
    place = PHRASES.index("in fog")
    moved = inside + 4 * normalize(moves[place], dim=0)
    found = name_by_images(moved, outside, plain, said, PHRASES)
    assert found is not None and (found.text, found.by) == ("in fog", "images") and found.score > 1
