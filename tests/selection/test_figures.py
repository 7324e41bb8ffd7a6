"""Following and coverage."""

import pytest
import torch
from every_case import every_case

from vecaf_hf.selection import Candidates, Selection, select
from vecaf_hf.selection.figures import coverage, figures_of, following


def test_following_is_nought_for_the_pools_mean_and_one_for_that_under_p_l():
    losses = torch.tensor([1.0, 1.0, 4.0, 4.0])
    assert following(losses, torch.tensor([0, 2])) == 0
    # Under p_L the mean is (1 + 1 + 16 + 16) / 10.
    assert following(losses, torch.tensor([2])) == pytest.approx((4 - 2.5) / (3.4 - 2.5))
    many = torch.multinomial(losses, 100_000, True, generator=torch.Generator().manual_seed(0))
    assert following(losses, many) == pytest.approx(1, abs=0.02)
    assert following(losses, torch.tensor([0])) < 0


@every_case("losses", [torch.zeros(5), torch.full((5,), 0.7), torch.tensor([2.3, 2.31, 2.29, 2.3, 2.32])])
def test_losses_that_hardly_differ_cannot_be_followed(losses):
    assert following(losses, torch.tensor([1, 2])) is None


def test_coverage_is_the_mean_cosine_to_the_nearest_selected_sample():
    embeddings = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([3, 77, 150])
    cosines = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings[rows][None], dim=2)
    assert coverage(embeddings, rows) == pytest.approx(float(cosines.amax(dim=1).mean()), abs=1e-6)


def test_figures_go_by_what_candidates_have():
    chosen = Selection(torch.tensor([21, 7]))
    indices = torch.tensor([7, 14, 21, 28])
    assert figures_of(chosen, Candidates(indices)) == {}
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert figures_of(chosen, Candidates(indices, losses=losses)) == {
        "following": following(losses, torch.tensor([2, 0]))
    }
    both = figures_of(chosen, Candidates(indices, losses=losses, embeddings=torch.eye(4)))
    assert both["coverage"] == pytest.approx(0.5) and both["flops"] == 2 * 4 * 2 * 4


def test_every_scored_selection_tells_them():
    embeddings = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    losses = torch.rand(50, generator=torch.Generator().manual_seed(1))
    for strategy in ("ods", "topk_loss", "random"):
        assert {"following", "coverage"} <= set(select(embeddings, losses, budget=5, strategy=strategy).info)
