"""TA-VAAL (arXiv 2002.04709) against its formulas, and what it learns."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vecaf_hf.learners import TAVAAL
from vecaf_hf.learners.ta_vaal import (
    IMAGE_SIZE,
    LATENT,
    Discriminator,
    RankVAE,
    adversarial_loss,
    discriminator_loss,
    evidence_loss,
)
from vecaf_hf.seeding import seed_of
from vecaf_hf.selection.candidates import Candidates

pytestmark = pytest.mark.usefixtures("small")

Make = Callable[..., TAVAAL]


@pytest.fixture
def make_learner(make_staged: Any, make_run: Any) -> Make:
    """Beside a model of 8 x 8 images; the same seed gives the same networks."""

    def make(seed: int = 0, **options: Any) -> TAVAAL:
        learner = TAVAAL(make_staged(inputs=3 * 8 * 8), make_run(strategy="ta_vaal", **options))
        learner.attach()
        images = torch.zeros(2, 3, 8, 8)
        with learner.watching():
            learner.model(images)
        torch.manual_seed(seed)
        learner.build(learner.sizes({"pixel_values": images}, 2))
        return learner

    return make


def scored(learner: TAVAAL, images: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        with learner.watching():
            learner.model(images)
        return learner.scores({"pixel_values": images}, len(images))


def looking(learner: TAVAAL, pool: Tensor) -> Callable[[Tensor], Candidates]:
    return lambda indices: Candidates(indices, **scored(learner, pool[indices]))


# --- The paper's terms ---


def test_the_evidence_is_that_of_two_gaussians() -> None:
    torch.manual_seed(0)
    images, decoded = torch.randn(2, 4, 3, 32, 32)
    means, log_variances = torch.randn(2, 4, LATENT)
    likelihood = Normal(decoded, 1.0).log_prob(images).flatten(1).sum(dim=1)
    constant = -0.5 * torch.tensor(2 * torch.pi).log() * 3 * 32 * 32
    divergence = kl_divergence(Normal(means, (0.5 * log_variances).exp()), Normal(0.0, 1.0)).sum(dim=1)
    expected = (-(likelihood - constant) + divergence).mean()
    torch.testing.assert_close(evidence_loss(images, decoded, means, log_variances), expected)


def test_the_adversaries_losses_are_cross_entropies() -> None:
    torch.manual_seed(0)
    selected, others = torch.randn(5), torch.randn(3)
    ones, zeros = torch.ones, torch.zeros
    entropy = torch.nn.functional.binary_cross_entropy
    real = entropy(selected.sigmoid(), ones(5))
    torch.testing.assert_close(adversarial_loss(selected, others), real + entropy(others.sigmoid(), ones(3)))
    torch.testing.assert_close(discriminator_loss(selected, others), real + entropy(others.sigmoid(), zeros(3)))


def test_both_networks_know_the_rank() -> None:
    torch.manual_seed(0)
    vae, discriminator = RankVAE(3).eval(), Discriminator()
    means, log_variances = vae.encode(torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert means.shape == log_variances.shape == (2, LATENT)
    low, high = torch.zeros(2), torch.ones(2)
    assert vae.decode(means, low).shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert not torch.equal(vae.decode(means, low), vae.decode(means, high))
    assert discriminator(means, low).shape == (2,)
    assert not torch.equal(discriminator(means, low), discriminator(means, high))


def test_the_score_is_the_logit_of_not_being_selected(make_learner: Make) -> None:
    learner, images = make_learner(), torch.randn(6, 3, 8, 8)
    found = scored(learner, images)["learned_scores"]
    with learner.watching():
        learner.model(images)
    ranks = learner.predicted(6).sigmoid()
    small = torch.nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    likeness = learner.discriminator(learner.vae.eval().encode(small)[0], ranks).sigmoid()
    torch.testing.assert_close(found, ((1 - likeness) / likeness).log().detach(), rtol=1e-4, atol=1e-5)


# --- Learning ---


def by_hand(learner: TAVAAL, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The VAE and the discriminator after a step from fresh optimizers."""
    vae, discriminator = deepcopy(learner.vae), deepcopy(learner.discriminator)
    generator = torch.Generator().manual_seed(seed_of(3, step, 0))
    drawn = {}
    for name in ("selected", "others"):
        side = learner._held[name]
        rows = torch.randperm(len(side.ranks), generator=generator)[:4]
        drawn[name] = side.images[rows].float(), side.ranks[rows]
    images, ranks = (torch.cat([drawn["selected"][part], drawn["others"][part]]) for part in (0, 1))
    noise = torch.randn(8, LATENT, generator=generator)
    one, other = (torch.optim.Adam(network.parameters(), lr=5e-4) for network in (vae, discriminator))

    means, log_variances = vae.encode(images)
    decoded = vae.decode(means + log_variances.exp().sqrt() * noise, ranks)
    loss = adversarial_loss(*discriminator(means, ranks).split(4))
    for rows in (slice(0, 4), slice(4, 8)):
        loss = loss + evidence_loss(images[rows], decoded[rows], means[rows], log_variances[rows])
    loss.backward()
    one.step()
    other.zero_grad()
    discriminator_loss(*discriminator(vae.encode(images)[0].detach(), ranks).split(4)).backward()
    other.step()
    return dict(vae.named_parameters()), dict(discriminator.named_parameters())


def test_a_step_is_the_vaes_and_then_the_discriminators(make_learner: Make) -> None:
    learner, pool = make_learner(), torch.randn(12, 3, 8, 8)
    learner.begin_loop(torch.arange(6), torch.arange(6, 12), looking(learner, pool))
    expected = by_hand(learner, 7)
    learner.step(7)
    for network, hand in zip((learner.vae, learner.discriminator), expected, strict=True):
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter, hand[name], rtol=1e-4, atol=1e-6)


def test_it_tells_what_is_not_selected_from_what_is(make_learner: Make) -> None:
    """Selected images are dark on the left; of new ones those that are dark on the right score higher."""
    torch.manual_seed(0)
    pool = torch.randn(80, 3, 8, 8) * 0.3
    left, right = torch.arange(0, 80, 2), torch.arange(1, 80, 2)
    pool[left, :, :, :4] -= 1
    pool[right, :, :, 4:] -= 1
    learner = make_learner(budget=30)
    learner.begin_loop(left[:30], right[:30], looking(learner, pool))
    for step in range(60):
        learner.step(step)
    alike, unlike = (scored(learner, pool[side[30:]])["learned_scores"] for side in (left, right))
    assert float((unlike[:, None] > alike).float().mean()) > 0.9


def test_it_looks_at_no_more_than_the_budget_on_either_side(make_learner: Make) -> None:
    learner, pool = make_learner(budget=5), torch.randn(30, 3, 8, 8)
    looked: list[Tensor] = []
    look = looking(learner, pool)
    learner.begin_loop(torch.arange(8), torch.arange(8, 30), lambda indices: looked.append(indices) or look(indices))
    (seen,) = looked
    assert len(seen) == 10 and int((seen < 8).sum()) == 5
    held = learner._held
    assert {name: len(side.ranks) for name, side in held.items()} == {"selected": 5, "others": 5}
    assert held["selected"].images.shape == (5, 3, IMAGE_SIZE, IMAGE_SIZE)
    # Not as scores, again.
    assert set(scored(learner, pool[:3])) == {"learned_scores"}


def test_without_others_or_a_next_selection_it_rests(make_learner: Make) -> None:
    learner, pool = make_learner(), torch.randn(6, 3, 8, 8)
    before = deepcopy(learner.state_dict())
    learner.step(0)
    learner.begin_loop(torch.arange(6), torch.arange(0), looking(learner, pool))
    learner.step(1)
    learner.begin_loop(torch.arange(3), torch.arange(3, 6), looking(learner, pool))
    learner.end()
    learner.step(2)
    after = learner.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_state_goes_on_as_if_nothing_had_happened(make_learner: Make) -> None:
    pool = torch.randn(12, 3, 8, 8)
    whole = make_learner()
    whole.begin_loop(torch.arange(6), torch.arange(6, 12), looking(whole, pool))
    whole.step(0)
    resumed = make_learner(seed=1)
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    for learner in (whole, resumed):
        learner.step(1)
    one, other = whole.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert torch.equal(values, other[name]), name


def test_the_global_generator_is_left_alone(make_learner: Make) -> None:
    learner, pool = make_learner(), torch.randn(12, 3, 8, 8)
    before = torch.get_rng_state()
    learner.begin_loop(torch.arange(6), torch.arange(6, 12), looking(learner, pool))
    learner.step(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_image_is_refused(make_learner: Make) -> None:
    learner = make_learner()
    with pytest.raises(ValueError, match=r"'ta_vaal' resizes images.*'pixel_values', and finds.*another strategy"):
        learner.sizes({"pixel_values": torch.zeros(2, 192)}, 2)
