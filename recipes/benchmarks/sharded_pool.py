"""A synthetic pool in shards: one file for each cell of k-means, from which is selected one cell at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection import Selection, SelectionOptions, select
from vecaf_hf.selection.similarity import nearest, unit_rows
from vecaf_hf.selection.weighting import loss_weights

# Of the embeddings.
DIMENSION = 64
CLUSTERS, GROUPS = 512, 32
OPTIONS = SelectionOptions(strategy="ods", allocation="global")


@dataclass(frozen=True)
class SyntheticPool:
    """Samples in random order: embeddings, float16 [N, d], and losses [N]."""

    embeddings: Tensor
    losses: Tensor

    def __len__(self) -> int:
        return len(self.losses)


def synthetic(size: int, seed: int = 0) -> SyntheticPool:
    """Clusters around the means of GROUPS groups, the n-th of a size as 1/n; the spread falls along the dimensions, as
    in embeddings of images. Losses are log-normal, with means that differ between clusters."""
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator)
    spectrum = torch.arange(1, DIMENSION + 1).float().rsqrt()
    means = normal(GROUPS, DIMENSION)[torch.arange(CLUSTERS) % GROUPS] * spectrum
    means += 0.7 * normal(CLUSTERS, DIMENSION) * spectrum
    spread, hardness = 0.3 + 0.5 * torch.rand(CLUSTERS, 1, generator=generator), 0.7 * normal(CLUSTERS)
    cluster = torch.multinomial(1 / torch.arange(1.0, CLUSTERS + 1), size, replacement=True, generator=generator)
    embeddings = torch.empty(size, DIMENSION, dtype=torch.float16)
    for rows in torch.arange(size).split(2**15):
        of = cluster[rows]
        embeddings[rows] = (means[of] + spread[of] * normal(len(rows), DIMENSION) * spectrum).half()
    return SyntheticPool(embeddings, (hardness[cluster] + normal(size) - 1).exp())


def selected(embeddings: Tensor, losses: Tensor, budget: int, seed: int) -> Selection:
    """By ODS, in all of these. [M, d], [M]."""
    return select(embeddings, losses, budget=budget, strategy="ods", allocation="global", seed=seed)


def fitted_centres(embeddings: Tensor, count: int, seed: int) -> Tensor:
    """Unit centres of k-means on 256 samples a cell. [N, d] -> [count, d]."""
    rows = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(seed))[: 256 * count]
    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=1024, max_iter=20)
    means.fit(unit_rows(embeddings, rows).numpy())
    return normalize(torch.from_numpy(means.cluster_centers_).float(), dim=-1)


def cell_of_each(embeddings: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each sample, in blocks as from a stream. [N, d], [C, d] -> LongTensor [N]."""
    return torch.cat([nearest(unit_rows(block), centres)[1] for block in embeddings.split(2**15)])


def write_shards(pool: SyntheticPool, cells: Tensor, count: int, folder: Path) -> list[Path]:
    """A file for each cell: embeddings, losses, and positions in the pool."""
    files = [folder / f"cell-{cell:05}.safetensors" for cell in range(count)]
    rows_by_cell = cells.argsort(stable=True).split(torch.bincount(cells, minlength=count).tolist())
    for rows, file in zip(rows_by_cell, files, strict=True):
        save_file({"embeddings": pool.embeddings[rows], "losses": pool.losses[rows], "positions": rows}, file)
    return files


def claims_of(pool: SyntheticPool, cells: Tensor, count: int, share: str) -> tuple[Tensor, Tensor]:
    """What each cell's share of the budget follows, its `size` or its `loss` weight; and its size. [C], [C]."""
    sizes = torch.bincount(cells, minlength=count)
    weights = loss_weights(pool.losses, OPTIONS.loss_weighting).double()
    return sizes if share == "size" else torch.bincount(cells, weights, minlength=count), sizes


def select_by_cell(files: Sequence[Path], budgets: Tensor, seed: int) -> tuple[Tensor, float]:
    """Positions in the pool of the samples selected in each cell for its share, and the FLOPs; one file is in memory at
    a time. LongTensor [K]."""
    positions, flops = [torch.empty(0, dtype=torch.long)], 0.0
    for file, budget in zip(files, budgets.tolist(), strict=True):
        if budget == 0:
            continue
        cell = load_file(file)
        found = selected(cell["embeddings"], cell["losses"], budget, seed)
        positions.append(cell["positions"][found.indices])
        flops += found.info["flops"]
    return torch.cat(positions), flops
