"""What is found by products in bfloat16 is what exact products find."""

import pytest
import torch
from dense_reference import problem
from every_case import every_case
from in_threads import in_threads
from test_sharing import assert_same, selected, tied
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection import SelectionOptions, find_strategy, products, rounded, run_strategy
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.processes import Spread
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


def test_of_equal_ones_the_first_is_found(monkeypatch):
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", 5000)
    apart = normalize(drawn(), dim=-1)
    pool, keys = apart[torch.arange(N) % 40], apart[40:75].repeat(2, 1)
    assert (nearest(pool, keys)[1] < 35).all()
    # Of five or six equal samples the earlier ones.
    rows = survey(pool, keys, 4).top.rows
    assert torch.equal(rows % 40, rows[:, :1].expand(-1, 4) % 40)
    assert torch.equal(rows // 40, torch.arange(4).expand(len(keys), -1))
    assert torch.equal(nearest(torch.zeros(20, D), keys)[1], torch.zeros(20, dtype=torch.long))


@every_case("rows", ROWS.values(), ids=ROWS)
@every_case("scale", [1e3, 1.0, 1e-3])
def test_no_estimate_is_further_off_than_is_said(rows, scale):
    rows = scale * rows()
    ((_, block),) = rounded.estimated_products(rows[:N], rows[N:])
    off = (block.of_keys.double() - rows[:N].double() @ rows[N:].double().T).abs()
    assert (off <= (block.error + block.rounding)[:, None]).all()
    assert (off <= block.slack).all()


def test_sums_of_many_numbers_that_have_most_in_common():
    generator = torch.Generator().manual_seed(0)
    rows = 1 + 1e-5 * torch.randn(N + K, 4096, generator=generator)
    ((_, block),) = rounded.estimated_products(rows[:N], rows[N:])
    exact = rows[:N].double() @ rows[N:].double().T
    assert ((block.of_keys.double() - exact).abs() <= (block.error + block.rounding)[:, None]).all()
    assert block.slack < 1e-2 * float(exact.max())


def test_few_products_are_computed_in_float32():
    queries, _, keys = problem(2000, 256, 384, dtype=torch.float32)
    for _, block in rounded.estimated_products(queries, keys):
        query, _ = block._undecided()
        assert len(query) < 0.02 * block.of_keys.numel()
        assert set(query.tolist()) == set(range(len(block.queries)))


@every_case("world", [2, 3])
@every_case("allocation", ["class", "global"])
@every_case("made", [lambda pool: pool, tied])
def test_processes_select_what_one_does(world, allocation, made, make_pool, monkeypatch):
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", 500)
    pool, options = made(make_pool(size=130, classes=4)), SelectionOptions(strategy="ods", allocation=allocation)
    expected = selected(pool, 30, options)
    for found in in_threads(world, lambda one: selected(pool, 30, options, one)):
        assert_same(found, expected)


def test_a_process_without_samples_finds_nothing_more():
    unit = normalize(drawn(), dim=-1)
    pool, keys = unit[:N], unit[N:]
    expected = survey(pool, keys, 8)

    def seen(processes):
        own = pool if processes.rank else pool[:0]
        return survey(Spread(own, (0, 0, N), processes), keys, 8)

    for found in in_threads(2, seen):
        assert torch.equal(found.similarity, expected.similarity)
        assert torch.equal(found.top.rows, expected.top.rows) and torch.equal(found.top.values, expected.top.values)


def test_columns_of_wider_rows():
    unit = normalize(drawn(), dim=-1)
    wider = torch.cat([unit, unit], dim=1)[:, :D]
    values, rows = nearest(wider[:N], wider[N:])
    expected, expected_rows = nearest(unit[:N], unit[N:])
    assert torch.equal(values, expected) and torch.equal(rows, expected_rows)


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
    assert not worth(queries, rows(queries, columns), rows(keys, columns))
    # All processes together have enough.
    assert worth(10**6, rows(1, 384), rows(300, 384))
    assert not worth(10**6, rows(10**6, 384).double(), rows(300, 384).double())
    assert not worth(10**6, rows(10**6, 384).to("meta"), rows(300, 384).to("meta"))
    monkeypatch.setattr(rounded, "has_native_bfloat16", lambda: False)
    assert not worth(10**6, rows(10**6, 384), rows(300, 384))
