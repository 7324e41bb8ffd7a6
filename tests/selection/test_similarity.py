"""Chunked similarities against the whole matrix."""

from unittest import mock

import numpy as np
import pytest
import torch
from dense_reference import problem
from every_case import every_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection import products
from vecaf_hf.selection.similarity import Top, nearest, survey, unit_rows


@pytest.mark.parametrize("chunk_elements", [1, 7, 2**23])
def test_nearest_does_not_depend_on_chunks(chunk_elements, monkeypatch):
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", chunk_elements)
    queries, _, keys = problem(23, 11, 4)
    values, rows = nearest(queries, keys)
    assert torch.equal(rows, (queries @ keys.T).argmax(dim=1))
    torch.testing.assert_close(values, (queries @ keys.T).amax(dim=1))


def test_unit_keeps_a_zero_row_at_zero():
    rows = normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), dim=-1)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("chunk_elements", [1, 100, 2**23])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_unit_rows_copies_what_is_asked_for(dtype, chunk_elements, monkeypatch):
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", chunk_elements)
    embeddings = (5 * torch.randn(30, 8, generator=torch.Generator().manual_seed(0))).to(dtype)
    before, rows = embeddings.clone(), torch.tensor([29, 3, 3, 17])
    torch.testing.assert_close(
        unit_rows(embeddings, rows), normalize(embeddings.float()[rows], dim=-1), rtol=0, atol=1e-3
    )
    exact = normalize(embeddings.double(), dim=-1).float()
    torch.testing.assert_close(unit_rows(embeddings), exact, rtol=0, atol=max(1e-6, 4 * torch.finfo(dtype).eps))
    assert torch.equal(embeddings, before)


@every_case(("dtype", "scale"), [(torch.float64, 1e200), (torch.float32, 1e25), (torch.float32, 1e-30)])
def test_unit_rows_of_any_scale(dtype, scale):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype) * scale
    torch.testing.assert_close(unit_rows(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_unit_rows_of_a_memory_mapped_file(tmp_path):
    values = np.random.default_rng(0).standard_normal((20, 6), dtype=np.float32)
    np.save(tmp_path / "pool.npy", values)
    # Copy on write: torch takes no read-only array without a warning.
    mapped = torch.from_numpy(np.load(tmp_path / "pool.npy", mmap_mode="c"))
    torch.testing.assert_close(unit_rows(mapped), normalize(torch.from_numpy(values), dim=-1))


def columns_sorted(matrix: Tensor, count: int) -> tuple[list, list]:
    """The largest of each column, the earlier row among equals; without minus infinities."""
    best = [
        sorted((-value, row) for row, value in enumerate(column) if value > float("-inf"))[:count]
        for column in matrix.T.tolist()
    ]
    return [[-value for value, _ in one] for one in best], [[row for _, row in one] for one in best]


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """Few values: ties everywhere; some cells are left out."""
    rows, columns = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    value = st.sampled_from([0.0, 1.0, 2.0, 3.0, float("-inf")])
    row = st.lists(value, min_size=columns, max_size=columns)
    return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))


@settings(deadline=None, max_examples=200)
@given(matrices(), st.integers(1, 8), st.integers(1, 9))
def test_top_keeps_the_largest_of_each_column(matrix, count, block):
    top = Top(matrix.T, count)
    for start in range(0, len(matrix), block):
        top.add(matrix[start : start + block], start)
    top.merge()
    values, rows = columns_sorted(matrix, count)
    assert [[v for v in column if v > float("-inf")] for column in top.values.tolist()] == values
    assert [[r for r in column if r >= 0] for column in top.rows.tolist()] == rows
    assert torch.equal(top.rows < 0, top.values.isinf())


@st.composite
def clouds(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Vectors of whole numbers, exact in floating point: ties and duplicates everywhere."""
    dimension = draw(st.integers(1, 3))
    vector = st.lists(st.integers(-2, 2), min_size=dimension, max_size=dimension)
    queries = draw(st.lists(vector, min_size=1, max_size=25))
    keys = draw(st.lists(vector, min_size=1, max_size=25))
    return torch.tensor(queries).float(), torch.tensor(keys).float()


@settings(deadline=None, max_examples=150)
@given(clouds(), st.sampled_from([1, 3, 16]), st.sampled_from([1, 10, 2**23]))
def test_survey_is_both_views_of_the_whole_matrix(cloud, count, chunk_elements):
    queries, keys = cloud
    with mock.patch.object(products, "CHUNK_ELEMENTS", chunk_elements):
        seen = survey(queries, keys, count)
    matrix = queries @ keys.T
    assert torch.equal(seen.similarity, matrix.amax(dim=1))
    values, rows = columns_sorted(matrix, count)
    assert [[r for r in column if r >= 0] for column in seen.top.rows.tolist()] == rows
    assert [[v for v in column if v > float("-inf")] for column in seen.top.values.tolist()] == values


@pytest.mark.parametrize("chunk_elements", [700, 5000, 2**23])
def test_recall_of_nearest_and_top_is_one_on_continuous_data(chunk_elements, monkeypatch):
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", chunk_elements)
    embeddings, _, centroids = problem(900, 40, 24, dtype=torch.float64)
    seen = survey(embeddings, centroids, 16)
    matrix = embeddings @ centroids.T
    torch.testing.assert_close(seen.similarity, matrix.amax(dim=1))
    assert torch.equal(nearest(embeddings, centroids)[1], matrix.argmax(dim=1))
    assert torch.equal(seen.top.rows, matrix.T.argsort(dim=1, descending=True)[:, :16])
