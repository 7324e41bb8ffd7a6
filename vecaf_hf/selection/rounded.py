"""The largest inner products, found by products in bfloat16: these take half of the time on a processor that has
instructions for them.

Rounding moves a product by no more than a known bound. Each product that could still be the largest is computed again
in float32, so that what is found is what float32 products find.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from vecaf_hf.selection.products import chunks

# Rounding changes a number by no more than this part of it; and a sum of d float32 products by d times that part, the
# sums that estimates and exact products are made of together.
BFLOAT16, FLOAT32 = 2.0**-8, 2.0**-23
# The bound's own rounding, and errors of errors.
SAFE = 1.02
# With less to do, what is done beside the products takes longer than they save: measured on a processor with AVX-512
# (`recipes/benchmarks/selection.py` has the sizes that are worth it).
LEAST_KEYS, LEAST_COLUMNS, LEAST_WORK = 64, 192, 5e8
# Estimates of which the largest is looked at first: groups without a large one are passed over.
GROUP = 16
# Columns that a block of queries is cut for, for each of its own.
COLUMNS_EACH = 4


def pays(count: int, queries: Tensor, keys: Tensor) -> bool:
    """Whether to look for the nearest of these keys in bfloat16.

    Args:
        count: Queries, of all processes together: all of them do the same.
        queries: This process's own. [n, d].
        keys: [K, d].
    """
    work = count * len(keys) * keys.shape[1]
    if len(keys) < LEAST_KEYS or keys.shape[1] < LEAST_COLUMNS or work < LEAST_WORK:
        return False
    return queries.dtype == torch.float32 and queries.device.type == "cpu" and has_native_bfloat16()


@cache
def has_native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself: torch does so on any, slowly."""
    # torch has no public name for it (2.6 to 2.15).
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(answer is not None and answer() for answer in asked)


@cache
def hear_of_beta() -> None:
    """Have torch say that CSR tensors are in beta state, which it says once, to nobody."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


@dataclass(frozen=True)
class Estimates:
    """Estimated products of some queries with all keys.

    Args:
        queries: [n, d].
        keys: [K, d].
        products: The last columns are the first key's again, so that there are whole groups. [n, K'].
        offset: Products with the mean of the keys, which are not rounded. [n].
        error: How far queries and keys that are rounded, and sums, move a product at most. [n].
        rounding: How far rounding a product itself moves it at most. [n].
    """

    queries: Tensor
    keys: Tensor
    products: Tensor
    offset: Tensor
    error: Tensor
    rounding: Tensor

    @property
    def of_keys(self) -> Tensor:
        """The products, once each. [n, K]."""
        return self.products[:, : len(self.keys)]

    @property
    def slack(self) -> float:
        """No product of the block is further from the exact one."""
        return float((self.error + self.rounding).max())

    def exact(self, query: Tensor, key: Tensor) -> Tensor:
        """Single products in float32: each the same whichever others are asked for. LongTensor [p], [p] -> [p]."""
        order = (query * len(self.keys) + key).argsort()
        begins = pad(query.bincount(minlength=len(self.queries)).cumsum(0), (1, 0))
        nothing = self.keys.new_zeros(len(key))
        due = torch.sparse_csr_tensor(begins, key[order], nothing, self.of_keys.shape, check_invariants=False)
        # A twentieth of the time of torch.linalg.vecdot, which copies the rows.
        values = torch.sparse.sampled_addmm(due, self.queries, self.keys.T, beta=0.0).values()
        return torch.empty_like(values).index_copy_(0, order, values)

    def nearest(self) -> tuple[Tensor, Tensor]:
        """The largest product of each query, and its key: the first among equals. [n], LongTensor [n]."""
        query, key = self._undecided()
        found = self.exact(query, key)
        # A query without a direction has none undecided: 0, and the first key.
        values = torch.zeros_like(self.offset).scatter_reduce_(0, query, found, "amax", include_self=False)
        is_largest = found == values[query]
        keys = torch.zeros_like(self.offset, dtype=torch.long)
        keys.scatter_reduce_(0, query[is_largest], key[is_largest], "amin", include_self=False)
        return values, keys

    def _undecided(self) -> tuple[Tensor, Tensor]:
        """Query and key of the products that may be a query's largest."""
        grouped = self.products.unflatten(1, (GROUP, -1))
        highest = grouped.amax(dim=1)
        largest = highest.amax(dim=1)
        bound = largest - 2 * (self.error + SAFE * BFLOAT16 * (largest - self.offset).abs())
        bound = torch.where(self.error > 0, bound, torch.inf)
        query, group = (highest >= bound[:, None]).nonzero(as_tuple=True)
        found, place = (grouped[query, :, group] >= bound[query, None]).nonzero(as_tuple=True)
        query, key = query[found], place * grouped.shape[2] + group[found]
        once = key < len(self.keys)
        return query[once], key[once]


def estimated_products(queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, Estimates]]:
    """Products of consecutive blocks of queries with all keys; each overwrites the one before.

    With q' and k' rounded, and u = 2^-8:

        |q'k' - qk| <= |q - q'| |k| + |q'| |k - k'| <= |q| (u |k| + (1 + u) |k - k'|)

    to which come u |q'k'| where that is rounded, and the float32 sums. What all keys have in common decides nothing: k
    is what is left of a key without it, since the shorter it is the less it is rounded.
    """
    hear_of_beta()
    centre = keys.mean(dim=0)
    left = keys - centre
    short = torch.cat([left, left[:1].expand(-len(keys) % GROUP, -1)]).bfloat16()
    longest, moved = _longest(left), _longest(left - short[: len(keys)])
    sums = FLOAT32 * keys.shape[1] * (longest + float(centre.norm()))
    del left
    buffers: tuple[Tensor, ...] = ()
    for where, block in chunks(queries, max(len(short), COLUMNS_EACH * queries.shape[1])):
        if not buffers:
            sizes = (block.shape[1], short.dtype), (len(short), short.dtype), (len(short), block.dtype)
            buffers = tuple(torch.empty(len(block), size, dtype=dtype) for size, dtype in sizes)
        rows, rounded, products = (buffer[: len(block)] for buffer in buffers)
        torch.matmul(rows.copy_(block), short.T, out=rounded)
        offset, length = block @ centre, torch.linalg.vector_norm(block, dim=1)
        products.copy_(rounded).add_(offset[:, None])
        error = SAFE * length * (BFLOAT16 * longest + moved) + sums * length
        yield where, Estimates(block, keys, products, offset, error, SAFE * BFLOAT16 * length * (longest + moved))


def _longest(rows: Tensor) -> float:
    """The largest length of any row."""
    return float(torch.linalg.vector_norm(rows, dim=1).max())
