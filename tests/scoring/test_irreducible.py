"""Irreducible losses are those of sklearn's logistic regression on held-out embeddings."""

from functools import partial

import pytest
import torch
from every_case import every_case
from sklearn.linear_model import LogisticRegression

from vecaf_hf.scoring.irreducible import irreducible_losses
from vecaf_hf.scoring.losses import classification_losses
from vecaf_hf.selection.candidates import Candidates

CENTRES = 2 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def samples(count: int, seed: int, classes: int = 4) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    return Candidates(
        torch.arange(count), CENTRES[labels] + torch.randn(count, 5, generator=generator), torch.zeros(count), labels
    )


@every_case("classes", [2, 4])
def test_they_are_minus_the_log_probabilities_of_sklearns_model(classes):
    held_out, pool = samples(80, 1, classes), samples(30, 2, classes)
    scale = float(held_out.embeddings.std())
    model = LogisticRegression(max_iter=500).fit(held_out.embeddings / scale, held_out.labels)
    expected = -torch.as_tensor(model.predict_log_proba(pool.embeddings / scale)).float()[range(30), pool.labels]
    found, flops = irreducible_losses(held_out, pool, classification_losses, classes)
    # Forward and backward in each iteration of the fit, and the losses.
    logits = 1 if classes == 2 else classes
    iterations = (flops - 2 * 30 * 5 * classes) / (4 * 80 * 5 * logits)
    assert iterations == int(iterations) > 1
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_a_wrong_label_has_the_larger_loss():
    pool = samples(40, 2)
    wrong = Candidates(pool.indices, pool.embeddings, pool.losses, (pool.labels + 1) % 4)
    right_losses, wrong_losses = (
        irreducible_losses(samples(200, 1), given, classification_losses, 4)[0] for given in (pool, wrong)
    )
    assert float((wrong_losses > right_losses).float().mean()) > 0.9


def test_they_are_of_the_runs_own_objective():
    smoothed = partial(classification_losses, label_smoothing=0.3)
    plain, other = (
        irreducible_losses(samples(80, 1), samples(30, 2), loss, 4)[0] for loss in (classification_losses, smoothed)
    )
    assert not torch.allclose(plain, other)


@every_case("known", [0, 4, 9])
def test_a_class_without_held_out_samples_has_a_finite_loss(known):
    found, _ = irreducible_losses(samples(80, 1, classes=2), samples(30, 2), classification_losses, known)
    assert bool(found.isfinite().all()) and found.shape == (30,)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    first, _ = irreducible_losses(samples(80, 1), samples(30, 2), classification_losses, 4)
    torch.rand(3)
    assert torch.equal(first, irreducible_losses(samples(80, 1), samples(30, 2), classification_losses, 4)[0])
    torch.set_rng_state(state)
    irreducible_losses(samples(80, 1), samples(30, 2), classification_losses, 4)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_it_cannot_be_fitted_on_is_refused():
    with pytest.raises(ValueError, match="more than one class"):
        irreducible_losses(samples(20, 1, classes=1), samples(30, 2), classification_losses, 4)
    multi_label = Candidates(torch.arange(5), torch.zeros(5, 5), torch.zeros(5), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="need one class per sample"):
        irreducible_losses(samples(20, 1), multi_label, classification_losses, 4)
