"""Maps between the two spaces against closed forms and scipy."""

import pytest
import scipy.linalg
import torch
from every_case import every_case
from torch.nn.functional import normalize

from vecaf_hf.augmentation.alignment import ALIGNMENTS, RIDGE_PENALTY, Aligner, identity, procrustes, ridge


def pairs(count: int, text_dimension: int, dimension: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit texts off the origin, and embeddings that follow them up to noise; float64."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    texts = normalize(normal(count, text_dimension) + 1, dim=1)
    return texts, texts @ normal(text_dimension, dimension) + 5 + 0.1 * normal(count, dimension)


@every_case(("text_dimension", "dimension"), [(4, 4), (3, 6), (6, 3)])
def test_ridge_solves_the_normal_equations_with_a_free_intercept(text_dimension, dimension):
    texts, embeddings = pairs(50, text_dimension, dimension)
    weight, bias = ridge(texts, embeddings)
    design = torch.cat([texts, torch.ones(50, 1, dtype=torch.float64)], dim=1)
    penalty = RIDGE_PENALTY * torch.eye(text_dimension + 1, dtype=torch.float64)
    penalty[-1, -1] = 0
    solution = torch.linalg.solve(design.T @ design + penalty, design.T @ embeddings)
    torch.testing.assert_close(weight, solution[:-1].T, rtol=0, atol=1e-6)
    torch.testing.assert_close(bias, solution[-1], rtol=0, atol=1e-6)


def test_ridge_takes_fewer_pairs_than_dimensions():
    texts, embeddings = pairs(3, 8, 5)
    weight, bias = ridge(texts, embeddings)
    assert weight.shape == (5, 8) and bias.shape == (5,)
    assert bool(weight.isfinite().all())


def test_procrustes_is_scipys_rotation_and_scale_about_the_means():
    texts, embeddings = pairs(40, 5, 5)
    weight, bias = procrustes(texts, embeddings)
    centred = texts - texts.mean(dim=0)
    rotation, scale = scipy.linalg.orthogonal_procrustes(centred, embeddings - embeddings.mean(dim=0))
    # scipy's scale is the sum of the singular values: the best factor is that over the texts' squared norm.
    expected = scale / float(centred.square().sum()) * torch.as_tensor(rotation).T
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(texts.mean(dim=0) @ weight.T + bias, embeddings.mean(dim=0), rtol=0, atol=1e-6)


@every_case(("text_dimension", "dimension"), [(4, 4), (3, 7)])
def test_procrustes_keeps_angles_between_texts(text_dimension, dimension):
    texts, embeddings = pairs(40, text_dimension, dimension)
    weight, _ = procrustes(texts, embeddings)
    assert weight.shape == (dimension, text_dimension)
    before = normalize(texts, dim=1) @ normalize(texts, dim=1).T
    mapped = normalize(texts @ weight.T, dim=1)
    torch.testing.assert_close(mapped @ mapped.T, before, rtol=0, atol=1e-6)


def test_procrustes_into_fewer_dimensions_projects_and_does_not_stretch():
    texts, embeddings = pairs(40, 7, 3)
    weight, _ = procrustes(texts, embeddings)
    singular = torch.linalg.svdvals(weight)
    torch.testing.assert_close(singular, singular[0].expand(3), rtol=1e-6, atol=0)


def test_procrustes_recovers_a_rotation_with_scale_and_offset():
    texts, _ = pairs(40, 5, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    weight, bias = procrustes(texts, texts @ (3 * rotation).T + 2)
    torch.testing.assert_close(weight, 3 * rotation, rtol=0, atol=1e-6)
    torch.testing.assert_close(bias, torch.full((5,), 2.0, dtype=torch.float64), rtol=0, atol=1e-6)


def test_procrustes_of_texts_that_are_all_the_same_is_their_images_mean():
    embeddings = torch.randn(6, 3)
    weight, bias = procrustes(torch.ones(6, 4), embeddings)
    torch.testing.assert_close(torch.ones(4) @ weight.T + bias, embeddings.mean(dim=0))


def test_identity_changes_nothing_and_refuses_other_sizes():
    texts, embeddings = torch.randn(3, 4), torch.randn(3, 4)
    weight, bias = identity(texts, embeddings)
    assert torch.equal(texts @ weight.T + bias, texts)
    with pytest.raises(ValueError, match=r'"identity".* 4 and 6: use alignment="ridge"'):
        identity(texts, torch.randn(3, 6))


def test_dual_is_a_ridge_too():
    assert ALIGNMENTS["dual"] is ALIGNMENTS["ridge"] is ridge
    assert ALIGNMENTS["procrustes"] is procrustes and ALIGNMENTS["identity"] is identity


def test_aligner_applies_the_map_that_was_set():
    texts, embeddings = pairs(20, 3, 5)
    aligner = Aligner(3, 5)
    weight, bias = ridge(texts, embeddings)
    aligner.set(weight, bias)
    torch.testing.assert_close(aligner(texts.float()), (texts @ weight.T + bias).float())
    assert not any(parameter.requires_grad for parameter in aligner.parameters())
