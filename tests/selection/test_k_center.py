"""Greedy k-center against its definition."""

import torch
from every_case import every_case
from torch import Tensor

from vecaf_hf.selection import STRATEGIES, Candidates, SelectionOptions, run_strategy
from vecaf_hf.selection.k_center import greedy_k_center


def naive(embeddings: Tensor, budget: int) -> list[int]:
    """Every distance to every centre, anew at each step."""
    points = [[float(value) for value in row] for row in embeddings]
    mean = [sum(column) / len(points) for column in zip(*points, strict=True)]

    def distance(a: list[float], b: list[float]) -> float:
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    chosen = [min(range(len(points)), key=lambda row: distance(points[row], mean))]
    while len(chosen) < budget:
        free = [row for row in range(len(points)) if row not in chosen]
        chosen.append(max(free, key=lambda row: min(distance(points[row], points[centre]) for centre in chosen)))
    return chosen


@every_case("seed", range(5))
def test_greedy_is_the_naive_one(seed):
    embeddings = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))
    assert greedy_k_center(embeddings, 40).tolist() == naive(embeddings, 40)


def test_among_equals_the_lower_row_comes_first():
    # The mean is 0: row 2. All corners are as far from it, then the opposite one is farthest.
    square = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [1.0, -1.0]])
    assert greedy_k_center(square, 5).tolist() == naive(square, 5) == [2, 0, 1, 3, 4]


def test_duplicates_come_last_and_by_row():
    embeddings = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))[torch.arange(18) % 6] * 1e3
    chosen = greedy_k_center(embeddings, 18)
    assert (chosen[:6] % 6).sort().values.tolist() == list(range(6))
    assert chosen[6:].tolist() == [row for row in range(18) if row not in chosen[:6].tolist()]


@every_case("budget", [2, 4, 7])
def test_the_radius_is_at_most_twice_the_smallest_possible(budget):
    embeddings = torch.randn(9, 2, generator=torch.Generator().manual_seed(3))
    distances = torch.cdist(embeddings, embeddings)
    choices = torch.combinations(torch.arange(9), budget)
    smallest = min(float(distances[:, choice].amin(dim=1).max()) for choice in choices)
    radius = float(distances[:, greedy_k_center(embeddings, budget)].amin(dim=1).max())
    assert radius <= 2 * smallest + 1e-6


def test_the_work_is_counted():
    pool = Candidates(torch.arange(20), embeddings=torch.randn(20, 4))
    selection = run_strategy(STRATEGIES["k_center"], pool, 5, SelectionOptions(strategy="k_center"), seed=0)
    # And what the coverage takes.
    assert selection.info["flops"] == 3 * 20 * 4 * 5 + 2 * 20 * 4 * 5
