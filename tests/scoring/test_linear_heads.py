"""A head that is fitted is sklearn's logistic regression."""

from dataclasses import replace

import pytest
import torch
from every_case import every_case
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vecaf_hf.scoring.linear_heads import fit_head, linear_head, linear_of, make_probe, rescored
from vecaf_hf.scoring.logistic import logistic_regression
from vecaf_hf.scoring.losses import OUTPUTS, classification_losses, kind_of_output
from vecaf_hf.selection.candidates import Candidates

# Of probabilities, between a solver that ends early and one that does not.
TOLERANCE = 2e-3


def make_candidates(classes: list[int], count: int = 60, dimension: int = 5, scale: float = 10.0) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(classes)[torch.randint(len(classes), (count,), generator=generator)]
    centres = torch.randn(max(classes) + 1, dimension, generator=generator)
    embeddings = scale * (centres[labels] + torch.randn(count, dimension, generator=generator))
    return Candidates(torch.arange(count), embeddings=embeddings, losses=torch.zeros(count), labels=labels)


def sklearns(candidates: Candidates) -> torch.Tensor:
    embeddings = candidates.embeddings / candidates.embeddings.std()
    solver = LogisticRegression(max_iter=1000, tol=1e-8).fit(embeddings.numpy(), candidates.labels.numpy())
    return torch.as_tensor(solver.predict_proba(embeddings.numpy()), dtype=torch.float32)


@every_case("scale", [0.01, 1.0, 100.0])
@every_case("classes", [[0, 1, 2, 3], [0, 1]])
def test_the_heads_probabilities_are_sklearns(classes, scale):
    candidates = make_candidates(classes, scale=scale)
    head = nn.Linear(5, len(classes))
    fit_head(head, candidates)
    probabilities = head(candidates.embeddings).softmax(dim=1).detach()
    torch.testing.assert_close(probabilities, sklearns(candidates), rtol=0, atol=TOLERANCE)


@every_case("classes", [[0, 1, 3], [1, 3], [2, 3]])
def test_a_class_without_candidates_keeps_its_row(classes):
    candidates = make_candidates(classes)
    head = nn.Linear(5, 4)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    fit_head(head, candidates)
    absent = [label for label in range(4) if label not in classes]
    assert torch.equal(head.weight[absent], before["weight"][absent])
    assert torch.equal(head.bias[absent], before["bias"][absent])
    among = head(candidates.embeddings)[:, classes].softmax(dim=1).detach()
    torch.testing.assert_close(among, sklearns(candidates), rtol=0, atol=TOLERANCE)


def test_the_fit_hardly_depends_on_how_many_threads_there_are():
    candidates, found = make_candidates([0, 1, 2, 3], count=1500, dimension=200), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            head = nn.Linear(200, 4)
            torch.set_num_threads(threads)
            fit_head(head, candidates)
            found.append(head(candidates.embeddings).softmax(dim=1).detach())
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=TOLERANCE)
    assert torch.equal(found[1], found[2])


@every_case(
    "head",
    [
        nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)),
        nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3)),
        nn.Sequential(nn.Tanh(), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(5, 3), nn.Softmax(dim=1)),
        nn.Conv2d(5, 3, kernel_size=1),
        nn.Identity(),
    ],
    ids=lambda head: type(head[0] if isinstance(head, nn.Sequential) else head).__name__,
)
def test_a_head_that_is_not_linear_is_refused(head):
    message = f"'alfa_mix' needs a linear head, and this one is {type(head).__name__}: choose another strategy"
    assert linear_of(head) is None
    with pytest.raises(ValueError, match=message):
        linear_head(head, "alfa_mix")


def test_the_linear_layer_behind_layers_without_parameters():
    layer = nn.Linear(5, 3)
    assert linear_of(layer) is layer
    assert linear_of(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Sequential(nn.Identity(), layer))) is layer


@pytest.mark.parametrize("rows", [7, 60, 1000])
def test_rescored_losses_are_those_of_a_forward(monkeypatch, rows):
    monkeypatch.setattr("vecaf_hf.scoring.linear_heads.ROWS", rows)
    candidates = replace(make_candidates([0, 1, 2]), logits=torch.zeros(60, 3))
    head = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    found = rescored(head, candidates, classification_losses)
    logits = head(candidates.embeddings[:, :, None, None]).detach()
    torch.testing.assert_close(found.logits, logits)
    expected = nn.functional.cross_entropy(logits, candidates.labels, reduction="none")
    torch.testing.assert_close(found.losses, expected)
    assert torch.equal(found.embeddings, candidates.embeddings)
    assert not found.losses.is_inference() and not found.logits.is_inference()


@every_case("bias", [True, False])
def test_a_linear_heads_weights(bias):
    layer = nn.Linear(5, 3, bias=bias).bfloat16()
    embeddings = torch.randn(4, 5)
    head = linear_head(nn.Sequential(nn.Flatten(), layer), "alfa_mix")
    assert head.weight.dtype == torch.float32 and not head.weight.requires_grad
    torch.testing.assert_close(head.logits(embeddings), layer.float()(embeddings).detach())


def test_a_linear_heads_weights_stay_while_the_layer_learns():
    layer = nn.Linear(5, 3)
    head, before = linear_head(layer, "alfa_mix"), [values.detach().clone() for values in layer.parameters()]
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert torch.equal(head.weight, before[0]) and torch.equal(head.bias, before[1])


def test_rescored_candidates_get_no_logits_that_nobody_asked_for():
    assert rescored(nn.Linear(5, 3), make_candidates([0, 1, 2]), classification_losses).logits is None


@every_case(
    "head", [nn.Linear(5, 4), nn.Conv2d(5, 4, kernel_size=1), nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4))]
)
def test_a_probe_has_the_heads_sizes_and_leaves_it_alone(head):
    before = {name: values.clone() for name, values in head.state_dict().items()}
    probe = make_probe(head, torch.randn(6, 5))
    assert (probe.in_features, probe.out_features) == (5, 4)
    assert all(not values.any() for values in probe.parameters())
    assert head.training and all(torch.equal(values, before[name]) for name, values in head.state_dict().items())


def test_a_class_that_a_probe_has_not_seen_has_the_mean_logit():
    candidates = make_candidates([0, 2])
    probe = make_probe(nn.Linear(5, 3), candidates.embeddings)
    fit_head(probe, candidates)
    logits = probe(candidates.embeddings)
    torch.testing.assert_close(logits[:, [0, 2]].mean(dim=1), logits[:, 1], rtol=0, atol=1e-5)


@every_case("kind", OUTPUTS)
def test_the_objective_is_given_an_output_of_the_models_kind(kind):
    def watched(outputs, labels):
        kinds.append(kind_of_output(outputs))
        return classification_losses(outputs, labels)

    kinds: list[str] = []
    head, candidates = nn.Linear(5, 3), make_candidates([0, 1, 2])
    found = rescored(head, candidates, watched, kind)
    assert kinds == [kind]
    assert torch.equal(found.losses, rescored(head, candidates, classification_losses).losses)


def test_a_model_outputs_logits_are_an_attribute_and_a_key():
    def both(outputs, labels):
        assert outputs.logits is outputs["logits"]
        return outputs.logits.logsumexp(dim=1).abs()

    rescored(nn.Linear(5, 3), make_candidates([0, 1, 2]), both, "ModelOutput")


@every_case("classes", [[0, 1, 2], [0, 1]])
def test_the_fits_flops_follow_the_solvers_passes(classes):
    candidates, head = make_candidates(classes, count=4000), nn.Linear(5, len(classes))
    with FlopCounterMode(display=False) as counter:
        told = fit_head(head, candidates)
    # Products of the covariance, once, and of small matrices are left out.
    assert told <= counter.get_total_flops() <= 1.2 * told


@every_case(("count", "dimension"), [(1, 1), (1, 5), (2, 1), (3, 1)])
def test_the_fewest_samples_and_features(count, dimension):
    labels = torch.arange(count) % 2
    embeddings = 3 + labels[:, None].float().expand(count, dimension)
    head = nn.Linear(dimension, 2)
    fit_head(head, Candidates(torch.arange(count), embeddings=embeddings, labels=labels))
    assert all(bool(values.isfinite().all()) for values in head.parameters())


def test_samples_that_are_all_the_same():
    head = nn.Linear(3, 2)
    fit_head(head, Candidates(torch.arange(4), embeddings=torch.full((4, 3), 2.0), labels=torch.arange(4) % 2))
    assert torch.allclose(head(torch.full((1, 3), 2.0)), torch.zeros(1, 2), atol=1e-4)


@every_case("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_another_type(dtype):
    candidates = make_candidates([0, 1, 2], scale=1.0)
    candidates = replace(candidates, embeddings=candidates.embeddings.bfloat16().to(dtype))
    head, same = nn.Linear(5, 3), nn.Linear(5, 3)
    fit_head(head, candidates)
    fit_head(same, replace(candidates, embeddings=candidates.embeddings.float()))
    assert torch.equal(head.weight, same.weight)
    weight, _, _ = logistic_regression(candidates.embeddings, candidates.labels, 3)
    assert weight.dtype == torch.float32
