"""Eq. 8 and 9 against loops written from the paper's formulas."""

import math

import pytest
import torch
from every_case import every_case
from hypothesis import given, settings
from hypothesis import strategies as st

from vecaf_hf.augmentation.cea import (
    ATTENTIONS,
    attention,
    augmented,
    domain_affinity,
    domain_similarity,
    rescaled,
    toward_caption,
    toward_difference,
    toward_random,
)

CLOSE = {"rtol": 0, "atol": 1e-6}


def samples(count: int, dimension: int = 5, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(a, b) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def norm(a) -> float:
    return math.sqrt(dot(a, a))


def softmax_of_cosines(embeddings, texts) -> list[float]:
    """Eq. 8, term by term."""
    exponentials = [math.exp(dot(e, t) / (norm(e) * norm(t))) for e, t in zip(embeddings, texts, strict=True)]
    return [value / sum(exponentials) for value in exponentials]


def cosines_of(embeddings, texts) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(embeddings, texts)


# --- Eq. 8 ---


def test_paper_attention_is_the_softmax_over_the_samples():
    e, t = samples(7), samples(7, seed=1)
    expected = torch.tensor(softmax_of_cosines(e, t), dtype=torch.float64)
    alpha = attention(cosines_of(e, t), "paper", 0.1)
    torch.testing.assert_close(alpha, expected, **CLOSE)
    assert float(alpha.sum()) == pytest.approx(1)


def test_mean_one_attention_is_the_papers_times_the_number_of_samples_clipped():
    e, t = samples(7), samples(7, seed=1)
    expected = torch.tensor([7 * alpha for alpha in softmax_of_cosines(e, t)], dtype=torch.float64)
    torch.testing.assert_close(attention(cosines_of(e, t), "mean_one", 0.1), expected, **CLOSE)
    assert expected.max() > 1.5
    clipped = attention(cosines_of(e, t), "mean_one", 1 / 1.5)
    torch.testing.assert_close(clipped, expected.clamp(max=1.5), **CLOSE)


@given(
    cosines=st.lists(st.floats(-1, 1), min_size=1, max_size=40),
    step_size=st.sampled_from([0.0, 0.05, 0.3, 1.0, 5.0]),
    mode=st.sampled_from(ATTENTIONS),
)
@settings(deadline=None, max_examples=100)
def test_what_holds_for_every_attention(cosines, step_size, mode):
    cosines = torch.tensor(cosines, dtype=torch.float64)
    alpha = attention(cosines, mode, step_size)
    assert alpha.shape == cosines.shape and bool((alpha >= 0).all())
    if mode == "none":
        assert bool((alpha == 1).all())
    elif mode == "paper":
        assert float(alpha.sum()) == pytest.approx(1)
    else:
        # Cosines are at most 1 and at least -1 apart from their mean: without clipping, alpha is at most e^2.
        unclipped = attention(cosines, mode, 1e-3)
        assert float(unclipped.mean()) == pytest.approx(1)
        assert step_size == 0 or float(alpha.max()) <= 1 / step_size
        assert bool((alpha <= unclipped).all())
    # A larger cosine never has a smaller alpha.
    assert bool((alpha[cosines.argsort()].diff() >= -1e-12).all())


def test_attention_of_one_sample():
    cosine = torch.tensor([-0.3], dtype=torch.float64)
    assert [float(attention(cosine, mode, 0.1)) for mode in ATTENTIONS] == [1, 1, 1]


# --- Eq. 9 ---


def test_rescaling_puts_a_text_at_the_norm_of_its_embedding_and_keeps_its_direction():
    e, t = samples(6), samples(6, seed=1)
    moved = rescaled(t, e)
    for row in range(6):
        assert norm(moved[row]) == pytest.approx(norm(e[row]))
        assert dot(moved[row], t[row]) / (norm(moved[row]) * norm(t[row])) == pytest.approx(1)


def test_a_text_of_norm_zero_stays_finite():
    e, t = samples(2), torch.zeros(2, 5, dtype=torch.float64)
    assert torch.equal(rescaled(t, e), t)


@every_case("step_size", [0.0, 0.1, 1.0])
@every_case("mode", ATTENTIONS)
def test_augmentation_is_equation_9(step_size, mode):
    e, t = samples(7), samples(7, seed=1)
    alpha = softmax_of_cosines(e, t)
    if mode == "mean_one":
        alpha = [min(7 * value, 1 / step_size if step_size else math.inf) for value in alpha]
    if mode == "none":
        alpha = [1.0] * 7
    expected = torch.empty_like(e)
    for i in range(7):
        for k in range(5):
            target = float(t[i, k]) * norm(e[i]) / norm(t[i])
            expected[i, k] = e[i, k] - step_size * alpha[i] * (e[i, k] - target)
    weights = attention(cosines_of(e, t), mode, step_size)
    torch.testing.assert_close(augmented(e, toward_caption(e, t), weights, step_size), expected, **CLOSE)


def test_no_embedding_moves_past_its_caption_however_large_the_step():
    e, t = samples(9), samples(9, seed=1)
    alpha = attention(cosines_of(e, t), "mean_one", 3.0)
    direction = toward_caption(e, t)
    moved = augmented(e, direction, alpha, 3.0)
    assert bool(((moved - e).norm(dim=1) <= direction.norm(dim=1) * (1 + 1e-9)).all())


def test_the_difference_is_between_the_texts_alone_at_the_scale_of_the_target():
    e, t, r = samples(5), samples(5, seed=1), samples(5, seed=2)
    direction = toward_difference(e, t, r)
    for i in range(5):
        for k in range(5):
            expected = (float(t[i, k]) - float(r[i, k])) * norm(e[i]) / norm(t[i])
            assert float(direction[i, k]) == pytest.approx(expected, abs=1e-6)


def test_what_target_and_reference_share_cancels():
    e = samples(4)
    domain, shared = samples(1, seed=3), samples(4, seed=4)
    gap = 50 * torch.ones(1, 5, dtype=torch.float64)
    for common in (shared, shared + gap):
        direction = toward_difference(e, common + domain, common)
        cosine = cosines_of(direction, domain.expand_as(direction))
        torch.testing.assert_close(cosine, torch.ones(4, dtype=torch.float64), **CLOSE)
    assert torch.equal(toward_difference(e, shared, shared), torch.zeros_like(e))


def test_the_control_is_as_long_as_the_difference_and_has_one_direction():
    e, t, r, line = samples(5), samples(5, seed=1), samples(5, seed=2), samples(1, seed=3)[0]
    line = line / norm(line)
    difference = toward_difference(e, t, r)
    control = toward_random(difference, line)
    for i in range(5):
        assert norm(control[i]) == pytest.approx(norm(difference[i]))
        assert dot(control[i], line) == pytest.approx(norm(difference[i]))


def jacobians(move, e) -> torch.Tensor:
    """d move(e)_i / d e_i of each row. [n, d, d]."""
    whole = torch.autograd.functional.jacobian(move, e)
    return torch.stack([whole[i, :, i] for i in range(len(e))])


@every_case(("toward", "shrinks"), [("caption", True), ("difference", False)])
def test_gradient_treats_target_and_attention_as_constants(toward, shrinks):
    e, t, r = samples(3, 4), samples(3, 4, seed=1), samples(3, 4, seed=2)
    alpha, eta = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), 0.2

    def move(e):
        return augmented(e, toward_caption(e, t) if toward == "caption" else toward_difference(e, t, r), alpha, eta)

    for found, a in zip(jacobians(move, e), alpha, strict=True):
        factor = 1 - eta * float(a) if shrinks else 1.0
        torch.testing.assert_close(found, factor * torch.eye(4, dtype=torch.float64), **CLOSE)


def test_what_a_map_makes_of_embeddings_has_a_gradient():
    e, t = samples(3, 4), samples(3, 4, seed=1).requires_grad_()
    augmented(e, toward_caption(e, t), torch.ones(3, dtype=torch.float64), 0.2).sum().backward()
    for row in range(3):
        expected = 0.2 * norm(e[row]) / norm(t[row].detach())
        torch.testing.assert_close(t.grad[row], torch.full((4,), expected, dtype=torch.float64), **CLOSE)


# --- Section 3.3 ---


@every_case("domains", [1, 3])
def test_a_sample_is_as_similar_to_domains_as_to_the_nearest(domains):
    e, texts = samples(8), samples(domains, seed=1)
    expected = [max(dot(row, text) / (norm(row) * norm(text)) for text in texts) for row in e]
    torch.testing.assert_close(domain_similarity(e, texts), torch.tensor(expected, dtype=torch.float64), **CLOSE)


@every_case("temperature", [0.01, 0.07, 2.0])
def test_domain_affinity_is_the_exponential_of_the_cosine_up_to_one_factor(temperature):
    cosines = [0.3, -0.9, 0.31, 0.0]
    expected = [math.exp((cosine - max(cosines)) / temperature) for cosine in cosines]
    found = domain_affinity(torch.tensor(cosines, dtype=torch.float64), temperature)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **CLOSE)
    assert float(found.max()) == 1
