"""Inner products in bfloat16, for who looks for the largest ones: at half the price, where a processor has the
instructions.

A product of rounded rows is off by no more than their roundings make it. What may be the largest in spite of that is
computed in float32, which is little: so what is found is what float32 products find.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from vecaf_hf.selection.products import chunks, product

# By which part of it a number changes at most when it is rounded to bfloat16; and a bound is made safe against its own
# rounding, and that of the sums in a product.
UNIT, SAFE, SUMS = 2.0**-8, 1.02, 1e-6
# Fewer keys, shorter ones or less to multiply are not worth it: what is done beside takes longer than is saved.
LEAST_KEYS, LEAST_COLUMNS, LEAST_WORK = 64, 192, 5e8
# Keys whose largest product is looked at first, in place of each of theirs.
GROUP = 16
# Computing single products takes as long as so many of a whole block.
MOST_SINGLE = 8
# A block of queries, which is read several times, is a quarter of the products that chunks are cut for, at most.
BESIDE = 4


def pays(queries: Tensor, keys: Tensor) -> bool:
    """Whether these products are faster in bfloat16."""
    count, columns = keys.shape
    if count < LEAST_KEYS or columns < LEAST_COLUMNS or len(queries) * count * columns < LEAST_WORK:
        return False
    return queries.dtype == torch.float32 and queries.device.type == "cpu" and has_native_bfloat16()


@cache
def has_native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself: torch does so on any, slowly."""
    # torch has no public name for it (2.6 to 2.15).
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(answer is not None and answer() for answer in asked)


@dataclass(frozen=True)
class Rounded:
    """Products of some queries with all keys, and how far they may be from exact ones.

    Args:
        queries: [n, d].
        keys: [K, d].
        estimates: The products; the last columns are the first key's again, so that there are whole groups. [n, K'].
        offset: Products with the mean of the keys, which enter the estimates exactly. [n].
        error: How far rounding queries and keys has moved an estimate at most. [n].
        largest: No product with a key less that mean is larger. [n].
    """

    queries: Tensor
    keys: Tensor
    estimates: Tensor
    offset: Tensor
    error: Tensor
    largest: Tensor

    @property
    def of_keys(self) -> Tensor:
        """The estimates, once each. [n, K]."""
        return self.estimates[:, : len(self.keys)]

    @property
    def slack(self) -> float:
        """No estimate is further from the exact product."""
        return float((self.error + UNIT * self.largest).max()) + SUMS

    def exact(self, query: Tensor, key: Tensor) -> Tensor:
        """Products of single queries with single keys. LongTensor [p], [p] -> [p]."""
        order, count = query.argsort(stable=True), len(self.queries)
        begins = functional.pad(query.bincount(minlength=count).cumsum(0), (1, 0))
        with warnings.catch_warnings():
            # Of torch's CSR tensors, which are "in beta state".
            warnings.simplefilter("ignore", UserWarning)
            nothing = self.keys.new_zeros(len(key))
            due = torch.sparse_csr_tensor(begins, key[order], nothing, self.of_keys.shape, check_invariants=False)
        values = torch.sparse.sampled_addmm(due, self.queries, self.keys.T, beta=0.0).values()
        return torch.empty_like(values).index_copy_(0, order, values)

    def all_exact(self) -> Tensor:
        """[n, K]."""
        return product(self.queries, self.keys.T, torch.empty_like(self.of_keys, memory_format=torch.contiguous_format))

    def is_cheaper_whole(self, single: Tensor) -> bool:
        """Whether it takes longer to compute so many single products than all."""
        return len(single) * MOST_SINGLE > self.of_keys.numel()

    def nearest(self) -> tuple[Tensor, Tensor]:
        """The largest product of each query, and its key: the first among equals. [n], LongTensor [n]."""
        query, key = self._open()
        if self.is_cheaper_whole(query):
            values, keys = self.all_exact().max(dim=1)
            return values, keys
        found = self.exact(query, key)
        values = torch.full_like(self.error, -torch.inf).scatter_reduce_(0, query, found, "amax")
        is_largest = found == values[query]
        keys = torch.full_like(self.error, len(self.keys), dtype=torch.long)
        return values, keys.scatter_reduce_(0, query[is_largest], key[is_largest], "amin")

    def _open(self) -> tuple[Tensor, Tensor]:
        """Query and key of the products that may be a query's largest, at least one of each query."""
        grouped = self.estimates.unflatten(1, (GROUP, -1))
        highest = grouped.amax(dim=1)
        best = highest.amax(dim=1)
        lowest = best - 2 * (self.error + SAFE * UNIT * (best - self.offset).abs() + SUMS)
        query, group = (highest >= lowest[:, None]).nonzero(as_tuple=True)
        found, place = (grouped[query, :, group] >= lowest[query, None]).nonzero(as_tuple=True)
        query, key = query[found], place * grouped.shape[2] + group[found]
        once = key < len(self.keys)
        return query[once], key[once]


def rounded_products(queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, Rounded]]:
    """Products of consecutive blocks of queries with all keys; each overwrites the one before."""
    # What all keys have in common decides nothing: the less is left of them, the smaller are the errors.
    centre = keys.mean(dim=0)
    centred = keys - centre
    short = torch.cat([centred, centred[:1].expand(-len(keys) % GROUP, -1)]).bfloat16()
    longest, moved = _longest(centred), _longest(centred - short[: len(keys)])
    buffers: tuple[Tensor, ...] = ()
    for where, block in chunks(queries, max(len(short), BESIDE * queries.shape[1])):
        if not buffers:
            sizes = (block.shape[1], short.dtype), (len(short), short.dtype), (len(short), block.dtype)
            buffers = tuple(torch.empty(len(block), size, dtype=dtype) for size, dtype in sizes)
        rows, rounded, estimates = (buffer[: len(block)] for buffer in buffers)
        torch.matmul(rows.copy_(block), short.T, out=rounded)
        offset, length = block @ centre, torch.linalg.vector_norm(block, dim=1)
        estimates.copy_(rounded).add_(offset[:, None])
        error = SAFE * length * (UNIT * longest + moved)
        yield where, Rounded(block, keys, estimates, offset, error, SAFE * length * (longest + moved))


def _longest(rows: Tensor) -> float:
    """The largest length of any row."""
    return float(torch.linalg.vector_norm(rows, dim=1).max())
