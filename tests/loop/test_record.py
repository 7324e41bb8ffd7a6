"""A loop in figures."""

import json

import pytest
import torch
from every_case import every_case

from vecaf_hf.loop import LoopRecord, record_loop
from vecaf_hf.selection import Selection
from vecaf_hf.selection.candidates import Candidates

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1])
CANDIDATES = Candidates(
    torch.tensor([6, 1, 3, 4, 5]), losses=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), labels=LABELS[[6, 1, 3, 4, 5]]
)


def record(selection, earlier=(), candidates=CANDIDATES, labels=LABELS) -> LoopRecord:
    return record_loop(1, 20, selection, list(earlier), candidates, labels)


def test_figures_of_a_selection():
    made = record(
        Selection(torch.tensor([4, 1, 6]), info={"objective": -1.5, "cea_alpha_max": 2.0}),
        earlier=[Selection(torch.tensor([1, 0])), Selection(torch.tensor([2, 1]))],
    )
    assert made == LoopRecord(
        loop=1,
        step=20,
        selected=3,
        new=2,
        class_counts={0: 2, 2: 1},
        pool_loss=pytest.approx((3 * 1.5 + 3 * 3 + 2 * 4.5) / 8),
        selected_loss=pytest.approx((4 + 2 + 1) / 3),
        info={"objective": -1.5, "cea_alpha_max": 2.0},
    )
    assert made.logs() == {
        "vecaf/loop": 1,
        "vecaf/selected": 3,
        "vecaf/new": 2,
        "vecaf/classes": 2,
        "vecaf/pool_loss": pytest.approx(22.5 / 8),
        "vecaf/selected_loss": pytest.approx(7 / 3),
        "vecaf/objective": -1.5,
        "vecaf/cea_alpha_max": 2.0,
    }


def test_the_pools_loss_counts_each_class_as_the_pool_has_it():
    labels = torch.tensor([7] * 90 + [3] * 10)
    losses = torch.where(labels == 7, 1.0, 5.0)
    equal = torch.tensor([0, 5, 80, 91, 95, 99])
    for drawn in (torch.arange(100), equal):
        candidates = Candidates(drawn, losses=losses[drawn], labels=labels[drawn])
        made = record(Selection(drawn[:2]), candidates=candidates, labels=labels)
        assert made.pool_loss == pytest.approx(float(losses.mean()))
    # Nobody has drawn them by class where the pool's classes are not known.
    assert record(Selection(equal[:2]), candidates=candidates, labels=None).pool_loss == pytest.approx(3)


def test_the_first_selection_is_all_new():
    assert record(Selection(torch.tensor([4, 1]))).new == 2


def test_without_scoring_there_are_no_losses():
    made = record(Selection(torch.tensor([4, 2])), candidates=Candidates(torch.arange(8)))
    assert made.pool_loss is made.selected_loss is None
    assert made.class_counts == {1: 1, 2: 1}
    assert made.logs() == {"vecaf/loop": 1, "vecaf/selected": 2, "vecaf/new": 2, "vecaf/classes": 2}


def test_without_readable_labels_those_of_the_scored_samples_count():
    assert record(Selection(torch.tensor([4, 1, 6])), labels=None).class_counts == {0: 2, 2: 1}


@every_case("labels", [None, torch.zeros(5, 3), torch.tensor([0.5, 0.0, 1.5, 2.5, 0.5])])
def test_without_classes_none_are_counted(labels):
    candidates = Candidates(CANDIDATES.indices, losses=CANDIDATES.losses, labels=labels)
    made = record(Selection(torch.tensor([4, 1])), candidates=candidates, labels=None)
    assert made.class_counts == {} and "vecaf/classes" not in made.logs()


@every_case("candidates", [CANDIDATES, Candidates(torch.arange(8))])
def test_json_keeps_everything(candidates):
    made = record(Selection(torch.tensor([4, 1]), info={"objective": 0.25}), candidates=candidates)
    assert LoopRecord.from_json(json.loads(json.dumps(made.to_json()))) == made
