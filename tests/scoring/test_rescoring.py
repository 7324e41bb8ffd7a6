"""Each mode over several boundaries, against what it should have scored, kept and fitted."""

from types import SimpleNamespace

import pytest
import torch
from every_case import every_case
from sklearn.linear_model import LogisticRegression
from torch import nn

from vecaf_hf.scoring.linear_heads import fit_head, make_probe, rescored
from vecaf_hf.scoring.losses import classification_losses
from vecaf_hf.scoring.rescoring import RESCORING, Boundary, Rescoring
from vecaf_hf.scoring.scorer import not_empty
from vecaf_hf.selection.candidates import Candidates

N, D, C = 80, 5, 4
# Shares of the classes: 40, 20, 12, 8 samples.
LABELS = torch.tensor([0] * 40 + [1] * 20 + [2] * 12 + [3] * 8)


class Model:
    """Scores that say at which boundary they were taken."""

    def __init__(self, logits: bool = False) -> None:
        self.now, self.asked, self.broken, self.logits = 0, [], set(), logits
        generator = torch.Generator().manual_seed(0)
        centres = 2 * torch.randn(C, D, generator=generator)
        self.embeddings = centres[LABELS] + torch.randn(N, D, generator=generator)

    def score(self, indices):
        self.asked.append(indices)
        indices = indices[[index not in self.broken for index in indices.tolist()]]
        if not len(indices):
            return Candidates(indices)
        return Candidates(
            indices,
            embeddings=self.embeddings[indices] + self.now,
            losses=100.0 * self.now + indices,
            labels=LABELS[indices],
            logits=torch.full((len(indices), C), float(self.now)) if self.logits else None,
        )


def make(mode: str, labels=LABELS, failed=(), **options) -> Rescoring:
    kept = torch.tensor([index for index in range(N) if index not in failed])
    ledger = SimpleNamespace(usable=kept, failed={"scoring": dict.fromkeys(failed, "why"), "training": {}})

    class Pool(SimpleNamespace):
        def __len__(self):
            return N

    return RESCORING[mode](
        Pool(labels=labels, ledger=ledger, seed=0, shards=None), **{"budget": 10, "fraction": 0.25, **options}
    )


def boundary(model: Model, loop: int, trained=(), training_losses=None, probed=None) -> Boundary:
    model.now = loop
    return Boundary(
        loop=loop,
        seed=1000 + loop,
        score=model.score,
        trained=lambda earlier: torch.tensor(trained[earlier]),
        training_losses=lambda: training_losses,
        probed=probed,
    )


@every_case("mode", RESCORING)
def test_the_first_boundary(mode):
    model, rescoring = Model(), make(mode)
    found = rescoring.candidates(boundary(model, 0))
    assert len(model.asked) == 1
    assert torch.equal(found.indices, model.asked[0])
    assert (len(found) == N) == rescoring.begins_with_all == (mode != "sampled")


def test_full_scores_all_each_time():
    model, rescoring = Model(), make("full")
    for loop in range(3):
        found = rescoring.candidates(boundary(model, loop))
        assert torch.equal(found.indices, torch.arange(N))
        assert torch.equal(found.losses, 100.0 * loop + torch.arange(N))
    assert rescoring.state_dict() == {}


# --- sampled ---


@every_case(("fraction", "count"), [(0.25, 20), (1.0, 80), (1.5, 80)])
def test_sampled_draws_its_part(fraction, count):
    model, rescoring = Model(), make("sampled", fraction=fraction)
    assert [len(rescoring.candidates(boundary(model, loop))) for loop in range(2)] == [count, count]


def test_sampled_is_stratified_fresh_and_the_same_by_seed():
    rescoring = make("sampled")
    one, again, other = rescoring.drawn(1), rescoring.drawn(1), rescoring.drawn(2)
    assert torch.equal(one, again) and not torch.equal(one, other)
    for drawn in (one, other):
        assert LABELS[drawn].bincount(minlength=C).tolist() == [10, 5, 3, 2]
        assert len(drawn.unique()) == 20
    assert len(make("sampled", labels=None).drawn(1)) == 20


@every_case("mode", ["full", "sampled", "stale"])
def test_what_could_not_be_loaded_is_tried_again(mode):
    rescoring = make(mode, failed=(3, 77))
    assert {3, 77} <= set(rescoring.drawn(1, 10).tolist())
    assert len(rescoring.drawn(1).unique()) == len(rescoring.drawn(1))


@every_case("broken", [{5}, set(range(0, 80, 2)), set(range(75))])
def test_sampled_draws_others_where_too_few_could_be_loaded(broken):
    for loop in range(5):
        model, rescoring = Model(), make("sampled", fraction=0.15, budget=12)
        model.broken = broken
        found = rescoring.candidates(boundary(model, loop))
        assert len(found) >= min(12, N - len(broken)) and not broken & set(found.indices.tolist())
        assert torch.equal(found.losses, 100.0 * loop + found.indices)
        assert len(torch.cat(model.asked)) == len(torch.cat(model.asked).unique())


@every_case("first", [True, False])
def test_sampled_goes_on_where_none_of_a_part_could_be_loaded(first):
    model, rescoring = Model(), make("sampled", fraction=0.15, budget=12)
    drawn = rescoring.drawn(0)
    model.broken = set(drawn.tolist()) if first else set(range(N)) - set(drawn[:5].tolist())
    found = rescoring.candidates(boundary(model, 0))
    assert len(found) == (12 if first else 5) and not model.broken & set(found.indices.tolist())


# --- stale ---


@every_case("logits", [False, True])
def test_stale_renews_a_part_takes_training_losses_and_keeps_the_rest(logits):
    model, rescoring = Model(logits), make("stale")
    trained = [[5, 6, 7, 41, 79], [8, 41], []]
    losses, embedded, seen = torch.arange(N).float(), torch.zeros(N), torch.full((N,), torch.nan)
    rescoring.candidates(boundary(model, 0))
    for loop in range(1, 4):
        # What training saw in earlier loops is there, and is older than what was scored since.
        seen[trained[loop - 1]] = 7000.0 + loop
        found = rescoring.candidates(boundary(model, loop, trained, seen))
        fresh = model.asked[-1]
        assert LABELS[fresh].bincount(minlength=C).tolist() == [10, 5, 3, 2]
        losses[trained[loop - 1]] = 7000.0 + loop
        losses[fresh] = 100.0 * loop + fresh
        embedded[fresh] = loop
        assert torch.equal(found.indices, torch.arange(N)) and torch.equal(found.labels, LABELS)
        assert torch.equal(found.losses, losses)
        assert torch.equal(found.embeddings, model.embeddings + embedded[:, None])
        assert not logits or torch.equal(found.logits[:, 0], embedded)
    assert [len(asked) for asked in model.asked] == [80, 20, 20, 20]
    assert len({tuple(asked.tolist()) for asked in model.asked}) == 4


def test_stale_ignores_a_training_loss_that_is_not_finite():
    model, rescoring = Model(), make("stale", fraction=0.01)
    rescoring.candidates(boundary(model, 0))
    seen = torch.full((N,), torch.inf)
    found = rescoring.candidates(boundary(model, 1, [list(range(N))], seen))
    assert found.losses.isfinite().all() and (found.losses < 100).sum() == N - 1


def test_stale_meets_samples_that_can_be_loaded_later_and_holds_those_that_cannot_any_more():
    model = Model()
    model.broken = {3}
    rescoring = make("stale")
    assert 3 not in rescoring.candidates(boundary(model, 0)).indices
    rescoring.pool.ledger.failed["scoring"][3] = "why"
    model.broken = set(range(40, 80))
    found = rescoring.candidates(boundary(model, 1, [[]], torch.full((N,), torch.nan)))
    assert torch.equal(found.indices, torch.arange(N))
    assert found.losses[3] == 103 and (found.losses[40:] < 100).all()


def test_stale_keeps_what_it_has_where_none_of_a_part_can_be_loaded():
    model, rescoring = Model(), make("stale")
    first = rescoring.candidates(boundary(model, 0))
    model.broken = set(range(N))
    found = rescoring.candidates(boundary(model, 1, [[]], torch.full((N,), torch.nan)))
    assert all(torch.equal(values, first.tensors()[name]) for name, values in found.tensors().items())


@every_case("mode", RESCORING)
def test_a_pool_of_which_nothing_can_be_loaded_has_no_candidates(mode):
    model, rescoring = Model(), make(mode)
    model.broken = set(range(N))
    found = rescoring.candidates(boundary(model, 0))
    assert len(found) == 0
    with pytest.raises(ValueError, match="none of the samples could be loaded: mend the dataset"):
        not_empty(found)


@every_case("mode", ["stale", "proxy"])
def test_what_is_handed_out_is_never_changed(mode):
    model, rescoring = Model(), make(mode)
    found = rescoring.candidates(boundary(model, 0))
    before = {name: values.clone() for name, values in found.tensors().items()}
    seen = torch.full((N,), 9.0)
    rescoring.candidates(boundary(model, 1, [list(range(N))], seen, lambda seen, candidates: candidates))
    assert all(torch.equal(values, before[name]) for name, values in found.tensors().items())


@every_case("mode", RESCORING)
def test_a_state_goes_on_where_it_was_taken(mode):
    runs = []
    for interrupted in (False, True):
        model, rescoring = Model(), make(mode)
        for loop in range(3):
            if interrupted:
                state = {name: values.clone() for name, values in rescoring.state_dict().items()}
                rescoring = make(mode)
                rescoring.load_state_dict(state)
            seen = torch.full((N,), 50.0)
            found = rescoring.candidates(boundary(model, loop, [[1, 2], [3]], seen, lambda seen, candidates: seen))
        runs.append(found)
    for name, values in runs[0].tensors().items():
        assert torch.equal(values, runs[1].tensors()[name]), name


# --- proxy ---


def probed(seen: Candidates, candidates: Candidates) -> Candidates:
    probe = make_probe(nn.Linear(D, C), seen.embeddings)
    fit_head(probe, seen)
    return rescored(probe, candidates, classification_losses)


@every_case("logits", [False, True])
def test_the_proxys_losses_are_those_of_a_logistic_regression_on_what_was_trained_on(logits):
    model, rescoring = Model(logits), make("proxy")
    trained = [list(range(0, N, 3)), list(range(1, N, 5))]
    rescoring.candidates(boundary(model, 0))
    for loop in (1, 2):
        found = rescoring.candidates(boundary(model, loop, trained, probed=probed))
        rows = sorted({index for samples in trained[:loop] for index in samples})
        scale = float(model.embeddings[rows].std())
        solver = LogisticRegression(max_iter=1000, tol=1e-8)
        solver.fit((model.embeddings[rows] / scale).numpy(), LABELS[rows].numpy())
        chances = torch.as_tensor(solver.predict_proba((model.embeddings / scale).numpy()))
        expected = -chances[torch.arange(N), LABELS].log()
        torch.testing.assert_close(found.losses, expected.float(), rtol=1e-2, atol=2e-3)
        assert torch.equal(found.embeddings, model.embeddings)
        if logits:
            torch.testing.assert_close(found.logits.softmax(dim=1), chances.float(), rtol=1e-2, atol=2e-3)
    assert len(model.asked) == 1


def test_a_proxy_of_one_class_keeps_the_last_losses():
    model, rescoring = Model(), make("proxy")
    first = rescoring.candidates(boundary(model, 0))
    found = rescoring.candidates(boundary(model, 1, [[1, 2, 3]], probed=probed))
    assert torch.equal(found.losses, first.losses)
