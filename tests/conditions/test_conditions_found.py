"""Samples that fail together are found, whether within one class or across classes; where none do, none are shown."""

from __future__ import annotations

import torch
from torch import Tensor

from vecaf_hf.conditions.finding import Group, _apart, find_groups
from vecaf_hf.selection.candidates import Candidates

CLASSES, DIMENSION, SAMPLES = 4, 24, 2400


def scored(seed: int, hidden: Tensor | None = None) -> Candidates:
    """Classes on a linear head's side each; what is hidden lies elsewhere, and there the head is wrong mostly."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(SAMPLES) % CLASSES
    embeddings = torch.randn(SAMPLES, DIMENSION, generator=generator)
    embeddings[torch.arange(SAMPLES), labels] += 3
    if hidden is not None:
        embeddings[hidden, CLASSES:] *= 0.5
        embeddings[hidden, CLASSES + 3] += 6
        # The head takes it for the next class.
        embeddings[hidden, labels[hidden]] -= 2.5
        embeddings[hidden, (labels[hidden] + 1) % CLASSES] += 2.5
    logits = 2 * embeddings[:, :CLASSES]
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return Candidates(torch.arange(SAMPLES) + 100, embeddings, losses, labels, logits)


def test_a_condition_that_all_classes_share_is_found_first() -> None:
    hidden = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(7))[:72]
    first = find_groups(scored(0, hidden))[0]
    inside = torch.isin(first.members, hidden + 100).float()
    assert inside[:10].mean() == 1 and inside.mean() > 0.9
    assert first.accuracy < 0.5 < 0.9 < first.class_accuracy
    assert len(first.classes) == CLASSES and sum(first.classes.values()) == len(first.members)
    assert first.found >= 0.5 and first.loss > first.class_loss


def test_a_condition_of_one_class_is_found_as_one() -> None:
    hidden = torch.arange(0, SAMPLES, CLASSES)[::15]
    first = find_groups(scored(1, hidden))[0]
    assert torch.isin(first.members[:10], hidden + 100).all()
    assert max(first.classes, key=lambda label: first.classes[label]) == 0


def test_where_samples_fail_alike_none_is_shown() -> None:
    for seed in range(3):
        assert find_groups(scored(seed)) == []


def test_a_part_of_a_more_important_group_is_not_shown_nor_what_has_it_for_a_part() -> None:
    def group(begin: int, end: int) -> Group:
        return Group(torch.arange(begin, end), 0.0, 1.0, 2.0, 1.0, {}, 1.0)

    first, part, beside, around = group(0, 100), group(0, 40), group(90, 130), group(0, 400)
    assert _apart([first, part, beside, around]) == [first, beside]


def test_the_same_seed_finds_the_same() -> None:
    hidden = torch.arange(0, SAMPLES, 37)
    one, other = (find_groups(scored(3, hidden), seed=5) for _ in range(2))
    assert one and [group.members.tolist() for group in one] == [group.members.tolist() for group in other]


def test_too_few_samples_are_none_and_no_error() -> None:
    assert find_groups(scored(0).take(torch.arange(30))) == []
