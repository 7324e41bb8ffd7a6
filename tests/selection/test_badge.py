"""BADGE against gradient embeddings from autograd, and k-means++ against its definition."""

import torch
from every_case import every_case
from scipy.stats import chisquare
from torch import Tensor, nn

from vecaf_hf.selection import STRATEGIES, Candidates, SelectionOptions, run_strategy
from vecaf_hf.selection.badge import k_means_plus_plus, pseudo_residuals, squared_distances, squared_norms

N, C, D = 30, 5, 7


def scored(seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(D, C)
    with torch.no_grad():
        head.weight.copy_(torch.randn(C, D, generator=generator))
        head.bias.copy_(torch.randn(C, generator=generator))
    embeddings = torch.randn(N, D, generator=generator)
    return head, embeddings, head(embeddings).detach()


def gradient_embeddings(head: nn.Linear, embeddings: Tensor) -> Tensor:
    """Of the cross entropy of the predicted label in the head's weights, one backward pass a sample. [N, C d]."""
    found = []
    for embedding in embeddings:
        head.zero_grad()
        logits = head(embedding[None])
        nn.functional.cross_entropy(logits, logits.argmax(dim=1)).backward()
        found.append(head.weight.grad.flatten().clone())
    return torch.stack(found)


@every_case("seed", range(3))
def test_distances_are_those_of_autograds_gradients(seed):
    head, embeddings, logits = scored(seed)
    gradients = gradient_embeddings(head, embeddings)
    residuals = pseudo_residuals(logits.softmax(dim=1))
    outer = residuals[:, :, None] * embeddings[:, None, :]
    torch.testing.assert_close(outer.flatten(1), gradients, rtol=1e-4, atol=1e-6)
    norms = squared_norms(residuals, embeddings)
    torch.testing.assert_close(norms, gradients.square().sum(dim=1), rtol=1e-4, atol=1e-6)
    for row in range(N):
        expected = (gradients - gradients[row]).square().sum(dim=1)
        found = squared_distances(residuals, embeddings, norms, row)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_first_sample_has_the_largest_gradient():
    head, embeddings, logits = scored()
    candidates = Candidates(torch.arange(N), embeddings=embeddings, logits=logits)
    largest = int(gradient_embeddings(head, embeddings).norm(dim=1).argmax())
    for seed in range(5):
        selection = run_strategy(STRATEGIES["badge"], candidates, 4, SelectionOptions(strategy="badge"), seed)
        assert int(selection.indices[0]) == largest
        # And what the coverage takes.
        assert selection.info["flops"] == 2 * N * (C + D) * 3 + 2 * N * D * 4


def plausible(draws: Tensor, weights: Tensor) -> bool:
    """Whether rows may have been drawn in proportion to these weights: Pearson's test, rows that are rare together."""
    expected = len(draws) * weights.double() / weights.double().sum()
    common = expected >= 5
    counts = draws.bincount(minlength=len(weights)).double()
    if bool(counts[expected == 0].any()):
        return False
    found, due = (torch.cat([of[common], of[~common].sum()[None]]) for of in (counts, expected))
    return bool(chisquare(found[due > 0].numpy(), due[due > 0].numpy()).pvalue > 1e-3)


@every_case("seed", range(3))
def test_the_next_sample_is_drawn_in_proportion_to_its_squared_distance(seed):
    """Gradients near a line, of norms from small to large: so are their distances."""
    generator = torch.Generator().manual_seed(seed)
    residuals = 1 + 0.1 * torch.randn(N, C, generator=generator)
    embeddings = torch.linspace(0.1, 3, N)[:, None] + 0.1 * torch.randn(N, D, generator=generator)
    gradients = (residuals[:, :, None] * embeddings[:, None, :]).flatten(1)
    draws = torch.tensor([k_means_plus_plus(residuals, embeddings, 3, generator).tolist() for _ in range(4000)])
    from_first = (gradients - gradients[draws[0, 0]]).norm(dim=1)
    second = int(draws[:, 1].mode().values)
    nearest = from_first.minimum((gradients - gradients[second]).norm(dim=1))
    third = draws[draws[:, 1] == second, 2]
    for drawn, distances in ((draws[:, 1], from_first), (third, nearest)):
        free = (distances > 0).double()
        assert plausible(drawn, distances.double() ** 2)
        # What the test tells apart.
        assert not any(plausible(drawn, free * distances.double() ** power) for power in (0, 1, 4))


def test_a_sure_prediction_is_drawn_last():
    embeddings, logits = torch.randn(20, D), torch.randn(20, C)
    logits[:5] = torch.tensor([1e3, 0, 0, 0, 0])
    candidates = Candidates(torch.arange(20), embeddings=embeddings, logits=logits)
    # The gradients of the first five are 0: one of them may be drawn as far from the others, then none is.
    selection = run_strategy(STRATEGIES["badge"], candidates, 16, SelectionOptions(strategy="badge"), 0)
    assert int((selection.indices < 5).sum()) == 1


def test_where_only_duplicates_are_left_all_are_as_likely():
    residuals, embeddings = torch.zeros(6, C), torch.ones(6, D)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([k_means_plus_plus(residuals, embeddings, 2, generator) for _ in range(500)])
    assert draws[:, 0].unique().tolist() == [0]
    counts = draws[:, 1].bincount(minlength=6)
    assert int(counts[0]) == 0 and int(counts[1:].min()) > 60
