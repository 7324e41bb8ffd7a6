"""Matching and debiasing against numpy."""

from itertools import permutations

import numpy as np
import pytest
import torch
from every_case import every_case
from sklearn.covariance import LedoitWolf
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection.ensemble import debiased, matched, shrunk_covariance


def members_around(count: int, dimension: int, members: int, spread: float, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    centre = normalize(torch.randn(count, dimension, generator=generator, dtype=torch.float64), dim=-1)
    return [
        scale
        * normalize(centre + spread * torch.randn(count, dimension, generator=generator, dtype=torch.float64), dim=-1)
        for _ in range(members)
    ]


def test_matched_recovers_a_permutation():
    first, *others = members_around(12, 8, 4, spread=0.02)
    generator = torch.Generator().manual_seed(1)
    shuffled = [member[torch.randperm(12, generator=generator)] for member in others]
    assert torch.equal(matched([first, *shuffled]), torch.stack([first, *others]))


def test_matched_maximises_the_summed_similarity():
    first, second = members_around(5, 3, 2, spread=1.0)
    best = max(permutations(range(5)), key=lambda order: float((first * second[list(order)]).sum()))
    assert torch.equal(matched([first, second])[1], second[list(best)])


def reference(aligned: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """theta* row by row, and at which rows the bound on the step bites."""
    theta = aligned.numpy()
    mu = theta.mean(axis=0)
    rows = np.concatenate([member - mu for member in theta])
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(rows).covariance_)
    result, bites = np.empty_like(mu), np.empty(len(mu), dtype=bool)
    for j in range(len(mu)):
        bias = theta[0, j] - mu[j]
        step = inverse @ bias
        bites[j] = np.linalg.norm(step) > np.linalg.norm(bias)
        if bites[j]:
            step = step / np.linalg.norm(step) * np.linalg.norm(bias)
        moved = theta[0, j] - step
        result[j] = moved / np.linalg.norm(moved)
    return result, bites


@every_case(("spread", "scale", "expected"), [(0.1, 1.0, {True}), (0.6, 20.0, {False})])
def test_debiased_equals_numpy(spread, scale, expected):
    members = members_around(10, 4, 5, spread, scale)
    theta, bites = reference(matched(members))
    assert set(bites.tolist()) == expected
    np.testing.assert_allclose(debiased(members).numpy(), theta, rtol=1e-6, atol=1e-8)


def test_debiased_with_the_bound_biting_at_some_rows_only():
    # Half of the rows spread far in one direction, half a little in another; the last 30 keep them apart.
    generator = torch.Generator().manual_seed(3)
    deviations = torch.zeros(5, 30, 32, dtype=torch.float64)
    deviations[:, :15, 0] = 9 * torch.randn(5, 15, generator=generator, dtype=torch.float64)
    deviations[:, 15:, 1] = 0.3 * torch.randn(5, 15, generator=generator, dtype=torch.float64)
    apart = torch.eye(32, dtype=torch.float64)[2:] * 100
    members = list(apart + deviations)
    assert torch.equal(matched(members), torch.stack(members))
    theta, bites = reference(matched(members))
    assert set(bites.tolist()) == {True, False}
    np.testing.assert_allclose(debiased(members).numpy(), theta, rtol=1e-6, atol=1e-8)


def test_debiased_steps_no_further_than_the_mean():
    members = members_around(10, 6, 5, spread=0.1)
    aligned = matched(members)
    bias = (aligned[0] - aligned.mean(dim=0)).norm(dim=1)
    assert bool(((debiased(members) - aligned[0]).norm(dim=1) <= 2 * bias).all())
    torch.testing.assert_close(debiased(members).norm(dim=1), torch.ones(10, dtype=torch.float64))


@every_case("dtype", [torch.float32, torch.float64])
@every_case(("members", "count", "dimension"), [(2, 1, 1), (3, 7, 5), (5, 20, 40)])
def test_identical_members_stay_put(members, count, dimension, dtype):
    generator = torch.Generator().manual_seed(0)
    member = normalize(torch.randn(count, dimension, generator=generator, dtype=dtype), dim=-1)
    copies = [member[torch.randperm(count, generator=generator)] for _ in range(members)]
    found = debiased(copies)
    assert found.dtype == dtype
    torch.testing.assert_close(found, copies[0], rtol=0, atol=1e-6)


def test_shrunk_covariance_is_ledoit_wolfs_of_all_members_together():
    deviations = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    expected = LedoitWolf(assume_centered=True).fit(deviations.reshape(24, 4).double().numpy()).covariance_
    np.testing.assert_allclose(shrunk_covariance(deviations).numpy(), expected, rtol=1e-6)


@every_case("spread", [0.0, 1e-30, 1e-8, 1.0])
def test_shrunk_covariance_is_invertible_without_spread_in_most_directions(spread):
    # One centroid in two members: both deviations lie on one line.
    deviation = spread * torch.tensor([[[3.0, -1.0, 2.0]]])
    covariance = shrunk_covariance(torch.cat([deviation, -deviation]))
    assert covariance.dtype == torch.float64
    assert float(torch.linalg.eigvalsh(covariance).min()) > 0
    solved = torch.linalg.solve(covariance, deviation[0, 0].double())
    cosine = torch.cosine_similarity(solved, deviation[0, 0].double(), dim=0, eps=0)
    assert spread == 0 or float(cosine) == pytest.approx(1, abs=1e-6)


def test_equal_members_whose_mean_is_rounded():
    """Sigma^-1 leaves single precision's range for the smallest coordinate of some of these."""
    for step in range(2000):
        row = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0, 2.0, 0.8906, 1e-31 * (1 + step / 700)]]))
        torch.testing.assert_close(debiased([row] * 3), row)
