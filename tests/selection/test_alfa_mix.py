"""ALFA-Mix against its closed form, with autograd's gradients and every anchor."""

import pytest
import torch
from every_case import every_case
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize

from vecaf_hf.selection import STRATEGIES, Candidates, Selection, SelectionOptions, run_strategy
from vecaf_hf.selection.alfa_mix import (
    STEP,
    class_means,
    flips,
    gradient_direction,
    mixed_with_farthest,
    one_of_each_cluster,
)
from vecaf_hf.selection.candidates import LinearHead

N, C, D = 200, 4, 6
EPSILON = STEP / D**0.5


def make(seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor, LinearHead]:
    """Embeddings, anchors, head."""
    generator = torch.Generator().manual_seed(seed)
    head = LinearHead(scale * torch.randn(C, D, generator=generator), torch.randn(C, generator=generator))
    return torch.randn(N, D, generator=generator), torch.randn(3, D, generator=generator), head


def loss_gradient(embeddings: Tensor, head: LinearHead) -> Tensor:
    leaf = embeddings.double().requires_grad_()
    logits = LinearHead(head.weight.double(), head.bias.double()).logits(leaf)
    functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum").backward()
    return leaf.grad.float()


def optimal_alpha(embeddings: Tensor, anchor: Tensor, gradient: Tensor) -> Tensor:
    """The paper's closed form, one alpha per coordinate. [N, d]."""
    away = anchor - embeddings
    size = EPSILON * away.norm(dim=1, keepdim=True) / gradient.norm(dim=1, keepdim=True)
    return size * gradient / away


@every_case("scale", [0.5, 1.0, 3.0])
@every_case("seed", range(4))
def test_what_flips_is_what_the_closed_form_flips_with_some_anchor(seed, scale):
    embeddings, anchors, head = make(seed, scale)
    predicted = head.logits(embeddings).argmax(dim=1)
    gradient = loss_gradient(embeddings, head)
    found = torch.zeros(N, dtype=torch.bool)
    for anchor in anchors:
        alpha = optimal_alpha(embeddings, anchor, gradient)
        mixed = alpha * anchor + (1 - alpha) * embeddings
        found |= head.logits(mixed).argmax(dim=1) != predicted
    assert 0 < int(found.sum()) < N
    assert torch.equal(flips(embeddings, anchors, head), found)


@every_case("seed", range(3))
def test_the_direction_is_the_gradients(seed):
    embeddings, _, head = make(seed)
    direction = gradient_direction(head.logits(embeddings), head)
    torch.testing.assert_close(direction, normalize(loss_gradient(embeddings, head), dim=-1), rtol=1e-3, atol=1e-5)


def test_a_sure_prediction_still_has_a_direction():
    embeddings, _, head = make()
    sure = LinearHead(head.weight * 100, head.bias)
    direction = gradient_direction(sure.logits(embeddings), sure)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(N))


def test_a_mixed_sample_has_moved_where_the_loss_grows_fastest_within_the_bound():
    """It maximises <alpha (z* - z), grad> over ||alpha (z* - z)|| <= epsilon ||z* - z||, here on a grid of the disc."""
    generator = torch.Generator().manual_seed(0)
    angles, radii = torch.meshgrid(torch.linspace(0, 6.2832, 721), torch.linspace(0, 1, 21), indexing="ij")
    disc = torch.stack([radii * angles.cos(), radii * angles.sin()], dim=-1).flatten(0, 1)
    head = LinearHead(torch.randn(C, 2, generator=generator), torch.randn(C, generator=generator))
    embeddings, anchors = torch.randn(20, 2, generator=generator), torch.randn(3, 2, generator=generator)
    mixed = mixed_with_farthest(embeddings, anchors, gradient_direction(head.logits(embeddings), head))
    for embedding, gradient, found in zip(embeddings, loss_gradient(embeddings, head), mixed, strict=True):
        moved = found - embedding
        bound = STEP / 2**0.5 * (anchors - embedding).norm(dim=1).max()
        assert float(moved.norm()) == pytest.approx(float(bound), rel=1e-4)
        assert float(moved @ gradient) >= float((bound * disc @ gradient).max()) * (1 - 1e-4)


def test_anchors_are_class_means():
    embeddings, labels = torch.randn(30, D), torch.randint(0, 3, (30,)) * 2
    means = class_means(embeddings, labels)
    for row, label in enumerate(labels.unique().tolist()):
        torch.testing.assert_close(means[row], embeddings[labels == label].mean(dim=0))


def run(candidates: Candidates, budget: int, seed: int = 0) -> Selection:
    return run_strategy(STRATEGIES["alfa_mix"], candidates, budget, SelectionOptions(strategy="alfa_mix"), seed)


def candidates_of(seed: int = 0, **fields: Tensor) -> Candidates:
    embeddings, _, head = make(seed)
    return Candidates(torch.arange(N), embeddings=embeddings, labels=torch.arange(N) % C, head=head, **fields)


def test_anchors_come_from_what_was_selected_before():
    selected = torch.zeros(N, dtype=torch.bool)
    selected[3:40] = True
    candidates = candidates_of(selected=selected)
    anchors = class_means(candidates.embeddings[3:40], candidates.labels[3:40])
    flipped = flips(candidates.embeddings, anchors, candidates.head).nonzero().squeeze(1)
    for seed in range(3):
        selection = run(candidates, 7, seed)
        assert selection.info["flipped"] == len(flipped) > 7
        assert bool(torch.isin(selection.indices, flipped).all())


def test_in_the_first_loop_anchors_are_of_k_random_samples():
    nothing = torch.zeros(N, dtype=torch.bool)
    for fields in ({}, {"selected": nothing}):
        selections = [run(candidates_of(**fields), 7, seed) for seed in range(4)]
        assert len({selection.info["flipped"] for selection in selections}) > 1
        drawn = torch.randperm(N, generator=torch.Generator().manual_seed(0))[:7]
        candidates = candidates_of()
        anchors = class_means(candidates.embeddings[drawn], candidates.labels[drawn])
        expected = int(flips(candidates.embeddings, anchors, candidates.head).sum())
        assert selections[0].info["flipped"] == expected


def test_what_does_not_flip_makes_up_for_what_is_missing():
    selected = torch.arange(N) < 60
    candidates = candidates_of(selected=selected)
    anchors = class_means(candidates.embeddings[:60], candidates.labels[:60])
    flipped = set(flips(candidates.embeddings, anchors, candidates.head).nonzero().squeeze(1).tolist())
    budget = len(flipped) + 20
    one, other = (set(run(candidates, budget, seed).indices.tolist()) for seed in (0, 1))
    assert flipped <= one & other and len(one) == len(other) == budget
    assert one != other


def test_one_of_each_cluster_nearest_to_its_centre():
    vectors = normalize(torch.randn(80, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    rows, flops = one_of_each_cluster(vectors, 9, torch.Generator().manual_seed(4))
    seed = int(torch.randint(2**31 - 1, (1,), generator=torch.Generator().manual_seed(4)))
    clusters = KMeans(9, n_init=1, random_state=seed).fit(vectors.numpy())
    distances = torch.as_tensor(clusters.transform(vectors.numpy()))
    members = [(torch.as_tensor(clusters.labels_) == cluster).nonzero().squeeze(1) for cluster in range(9)]
    expected = [int(rows[distances[rows, cluster].argmin()]) for cluster, rows in enumerate(members)]
    assert rows.tolist() == sorted(expected)
    assert flops == 2 * 80 * 5 * 9 * clusters.n_iter_


def test_fewer_distinct_samples_than_clusters():
    vectors = torch.eye(4)[torch.arange(20) % 4]
    rows, _ = one_of_each_cluster(vectors, 9, torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 1, 2, 3]


@every_case(
    ("changes", "message"),
    [
        ({"labels": torch.zeros(N, C)}, "needs labels that are one class per sample"),
        ({"head": LinearHead(torch.zeros(1, D), torch.zeros(1))}, "needs a prediction that can flip"),
    ],
)
def test_what_it_cannot_work_with_is_refused(changes, message):
    fields = {"labels": torch.zeros(N, dtype=torch.long), "head": make()[2]} | changes
    with pytest.raises(ValueError, match=message):
        run(Candidates(torch.arange(N), embeddings=make()[0], **fields), 5)
