"""What is found by products in bfloat16 is what exact products find."""

import pytest
import torch
from dense_reference import problem
from every_case import every_case
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection import SelectionOptions, find_strategy, products, rounded, run_strategy
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.similarity import nearest, survey

N, K, D = 203, 70, 24
# Of exact products in float32.
ROUNDING = 1e-6


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 whatever the processor is, and however few there are."""
    monkeypatch.setattr(rounded, "has_native_bfloat16", lambda: True)
    for name in ("LEAST_KEYS", "LEAST_COLUMNS", "LEAST_WORK"):
        monkeypatch.setattr(rounded, name, 0)


def on_the_edge() -> Tensor:
    """Rows of numbers that rounding moves as far as it can: halfway between two of bfloat16."""
    signs = torch.randint(2, (N + K, D), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return signs * (1 + 2.0**-8)


def drawn(spread: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.ones(D) + spread * torch.randn(N + K, D, generator=generator)


ROWS = {
    "apart": lambda: drawn(),
    "close": lambda: drawn(1e-2),
    "all but the same": lambda: drawn(1e-6),
    "the same": lambda: torch.ones(N + K, D),
    "zero": lambda: torch.cat([torch.zeros(40, D), drawn()[40:]]),
    "twins": lambda: drawn()[torch.arange(N + K) % 50],
    "on the edge": on_the_edge,
    "single": lambda: torch.eye(D)[torch.arange(N + K) % D],
}


@every_case("rows", ROWS.values(), ids=ROWS)
def test_nearest_and_survey_are_those_of_exact_products(rows, monkeypatch):
    # Of several blocks, and some rows and keys beyond whole groups.
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", 5000)
    unit = normalize(rows(), dim=-1)
    pool, keys = unit[:N], unit[N:]
    exact = pool.double() @ keys.double().T
    values, found = nearest(pool, keys)
    most = exact.amax(dim=1)
    assert (exact.gather(1, found[:, None]).squeeze(1) >= most - ROUNDING).all()
    torch.testing.assert_close(values.double(), most, rtol=0, atol=ROUNDING)
    seen = survey(pool, keys, 8)
    torch.testing.assert_close(seen.similarity.double(), most, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(seen.top.values.double(), exact.T.topk(8).values, rtol=0, atol=ROUNDING)
    assert all(len(row.unique()) == 8 for row in seen.top.rows)
    of_rows = exact.T.gather(1, seen.top.rows)
    torch.testing.assert_close(of_rows, seen.top.values.double(), rtol=0, atol=ROUNDING)


@every_case("rows", ROWS.values(), ids=ROWS)
@every_case("scale", [1.0, 1e-3])
def test_no_estimate_is_further_off_than_is_said(rows, scale):
    rows = scale * rows() / D**0.5
    ((_, block),) = rounded.rounded_products(rows[:N], rows[N:])
    off = (block.of_keys.double() - rows[:N].double() @ rows[N:].double().T).abs()
    assert (off <= block.slack).all()
    assert (off.amax(dim=1) <= block.error + rounded.UNIT * block.largest + rounded.SUMS).all()


def test_few_products_are_computed_in_float32():
    queries, _, keys = problem(2000, 256, 384, dtype=torch.float32)
    for _, block in rounded.rounded_products(queries, keys):
        query, _ = block._open()
        assert len(query) < 0.02 * block.of_keys.numel()
        assert set(query.tolist()) == set(range(len(block.queries)))


def test_a_row_is_found_the_same_beside_others():
    queries, _, keys = problem(N, K, D, dtype=torch.float32)
    values, found = nearest(queries, keys)
    some = torch.arange(5, N, 3)
    some_values, some_found = nearest(queries[some], keys)
    assert torch.equal(some_found, found[some])
    assert torch.equal(some_values, values[some])


@every_case("allocation", ["global", "class"])
def test_the_same_is_selected(allocation, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(9000) % 3
    embeddings = normalize(torch.randn(3, 64, generator=generator)[labels] + torch.randn(9000, 64, generator=generator))
    losses = torch.rand(9000, generator=generator)
    pool = Candidates(torch.arange(9000), embeddings=embeddings, losses=losses, labels=labels)
    options = SelectionOptions(allocation=allocation)
    by_rounded = run_strategy(find_strategy("ods"), pool, 300, options, 0)
    monkeypatch.setattr(rounded, "has_native_bfloat16", lambda: False)
    exact = run_strategy(find_strategy("ods"), pool, 300, options, 0)
    assert torch.equal(by_rounded.indices, exact.indices)
    assert by_rounded.info["objective_end"] == pytest.approx(exact.info["objective_end"], rel=1e-5)


@every_case(("queries", "keys", "columns"), [(10**6, 63, 384), (10**6, 100, 191), (1000, 300, 384)])
def test_what_is_not_worth_it(queries, keys, columns, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(rounded, "has_native_bfloat16", lambda: True)
    rows, worth = torch.empty(1).expand, rounded.pays
    assert not worth(rows(queries, columns), rows(keys, columns))
    assert worth(rows(10**6, 384), rows(300, 384))
    assert not worth(rows(10**6, 384).double(), rows(300, 384).double())
    assert not worth(rows(10**6, 384).to("meta"), rows(300, 384).to("meta"))
    monkeypatch.setattr(rounded, "has_native_bfloat16", lambda: False)
    assert not worth(rows(10**6, 384), rows(300, 384))
