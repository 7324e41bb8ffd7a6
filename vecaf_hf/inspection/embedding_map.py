"""The candidates' embeddings in the plane, and whose selection each is in (the paper's Figure 6)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from vecaf_hf.selection.candidates import evenly_spaced

# Most candidates that a map shows.
MOST_POINTS = 4000
# Whose selection a candidate is in.
NEITHER, OURS, OTHERS, BOTH = range(4)


@dataclass(frozen=True)
class EmbeddingMap:
    """Some candidates in the plane.

    Args:
        method: `UMAP` or `PCA`.
        explained: Part of the variance that the plane shows, of a PCA.
        indices: Positions in the pool.
        x: Horizontal coordinate of each.
        y: Vertical coordinate.
        chosen: Whose selection each is in: NEITHER, OURS, OTHERS or BOTH.
        on_boundary: Whether its two likeliest classes are nearly as likely; none where that is not known.
        boundary_shares: Of all candidates that were looked at, of our selection and of the other: the part that lies on
            a boundary.
    """

    method: str
    explained: float | None
    indices: tuple[int, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    chosen: tuple[int, ...]
    on_boundary: tuple[bool, ...]
    boundary_shares: dict[str, float]


def embedding_map(
    embeddings: Tensor, indices: Tensor, chosen: Tensor, boundary: Tensor | None, looked_at: Tensor, seed: int
) -> EmbeddingMap:
    """A map of candidates: as many of the selected as have room in half of it, and an even part of the others.

    Args:
        embeddings: [M, d].
        indices: LongTensor [M].
        chosen: Whose selection each is in: NEITHER, OURS, OTHERS (ActiveFT's) or BOTH. LongTensor [M].
        boundary: Whether it lies on a boundary, Bool [M]; None where that is not known.
        looked_at: Of which candidates it is known. Bool [M].
        seed: Of UMAP.
    """
    ours, others = (chosen == OURS) | (chosen == BOTH), (chosen == OTHERS) | (chosen == BOTH)
    selected, rest = (chosen != NEITHER).nonzero()[:, 0], (chosen == NEITHER).nonzero()[:, 0]
    selected = selected[evenly_spaced(len(selected), MOST_POINTS // 2)]
    rest = rest[evenly_spaced(len(rest), MOST_POINTS - len(selected))] if len(rest) else rest
    rows = torch.cat([selected, rest]).sort().values
    coordinates, method, explained = in_the_plane(embeddings[rows], seed)
    shares = {}
    if boundary is not None:
        sets = {"candidates": looked_at, "selected": ours & looked_at, "activeft": others & looked_at}
        shares = {name: float(boundary[one].float().mean()) for name, one in sets.items() if one.any()}
    return EmbeddingMap(
        method=method,
        explained=explained,
        indices=tuple(indices[rows].tolist()),
        x=tuple(coordinates[:, 0].tolist()),
        y=tuple(coordinates[:, 1].tolist()),
        chosen=tuple(chosen[rows].tolist()),
        on_boundary=() if boundary is None else tuple(boundary[rows].tolist()),
        boundary_shares=shares,
    )


def in_the_plane(embeddings: Tensor, seed: int) -> tuple[Tensor, str, float | None]:
    """Coordinates by UMAP where it is installed and there are enough samples, by PCA otherwise. [n, d] -> [n, 2]."""
    found = embeddings.float().numpy()
    if find_spec("umap") is not None and len(found) > 50:
        from umap import UMAP

        # One thread, as a seed asks for.
        mapped = UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(found)
        return torch.as_tensor(mapped), "UMAP", None
    solver = PCA(min(2, *found.shape), random_state=seed)
    mapped = torch.as_tensor(solver.fit_transform(found))
    if mapped.shape[1] < 2:
        mapped = torch.cat([mapped, torch.zeros_like(mapped)], dim=1)
    return mapped, "PCA", float(solver.explained_variance_ratio_.sum())
