"""What other libraries answer on arrays that embeddings bring with them; writes the table of docs/peers.md.

python -m venv peers
peers/bin/pip install apricot-select==0.6.1 submodlib-py==0.0.3 faiss-cpu==1.15.1 scikit-learn==1.9.1
peers/bin/python docs/peers/ask.py
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[1] / "peers.md"
MARKS = ("<!-- peers -->\n", "<!-- /peers -->\n")
COUNT = 20
# Samples of little weight.
LIGHT = 20_000


def copies() -> np.ndarray:
    """20 points, each three times, as a pool with augmented or scraped doublets has them. [60, 16]."""
    return np.tile(np.random.default_rng(0).normal(size=(20, 16)), (3, 1)).astype(np.float32)


def popular() -> np.ndarray:
    """One sample 30 times and 30 others. [60, 16]."""
    points = np.random.default_rng(1).normal(size=(31, 16))
    return np.concatenate([np.tile(points[:1], (30, 1)), points[1:]]).astype(np.float32)


def heavy() -> tuple[np.ndarray, np.ndarray]:
    """20,000 light samples around 0 and five heavy ones far away, which have 99 % of the weight. [20005, 4]."""
    generator = np.random.default_rng(2)
    points = np.concatenate([generator.normal(size=(LIGHT, 4)), generator.normal(size=(5, 4)) + 50])
    return points.astype(np.float32), np.concatenate([np.full(LIGHT, 1.0), np.full(5, 4e5)]).astype(np.float32)


def large() -> np.ndarray:
    """Half-precision features of some hundreds, as a layer without a norm gives them. [60, 16]."""
    return (np.random.default_rng(3).normal(size=(60, 16)) * 300).astype(np.float16)


def distinct(chosen: Any, points: np.ndarray) -> tuple[int, int]:
    """How many of the chosen rows are different rows, and how many are different samples."""
    rows = np.asarray(chosen).astype(int)
    return len(np.unique(rows)), len(np.unique(points[rows], axis=0))


def nearest(centres: np.ndarray, points: np.ndarray) -> np.ndarray:
    """What the usual recipe selects: for each centroid the sample that is nearest."""
    import faiss

    index = faiss.IndexFlatL2(points.shape[1])
    index.add(np.ascontiguousarray(points, dtype=np.float32))
    return index.search(np.ascontiguousarray(centres, dtype=np.float32), 1)[1][:, 0]


def minibatch(points: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans

    made = MiniBatchKMeans(count, random_state=0, n_init=1).fit(points, sample_weight=weights)
    return nearest(made.cluster_centers_, points)


def faiss_kmeans(points: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    import faiss

    made = faiss.Kmeans(points.shape[1], count, seed=0, min_points_per_centroid=1)
    made.train(np.asarray(points, dtype=np.float32), weights=weights)
    return nearest(made.centroids, points)


def apricot(points: np.ndarray, count: int, metric: str = "euclidean") -> np.ndarray:
    from apricot import FacilityLocationSelection

    return FacilityLocationSelection(count, metric=metric).fit(points).ranking


def apricot_features(points: np.ndarray, count: int) -> np.ndarray:
    from apricot import FeatureBasedSelection

    return FeatureBasedSelection(count).fit(np.abs(points)).ranking


def submodlib(points: np.ndarray, count: int, kind: str = "FacilityLocationFunction") -> list[int]:
    import submodlib as library

    made = getattr(library, kind)(n=len(points), mode="dense", data=points, metric="euclidean")
    options = {"stopIfZeroGain": False, "stopIfNegativeGain": False, "show_progress": False}
    return [row for row, _ in made.maximize(budget=count, **options)]


PEERS: dict[str, Callable[[np.ndarray, int], Any]] = {
    "MiniBatchKMeans + nearest": minibatch,
    "faiss.Kmeans + nearest": faiss_kmeans,
    "apricot FacilityLocation": apricot,
    "apricot FacilityLocation, cosine": lambda points, count: apricot(points, count, "cosine"),
    "apricot FeatureBased": apricot_features,
    "submodlib FacilityLocation": submodlib,
    "submodlib DisparitySum": lambda points, count: submodlib(points, count, "DisparitySumFunction"),
    "submodlib DisparityMin": lambda points, count: submodlib(points, count, "DisparityMinFunction"),
}


def table() -> str:
    lines = ["| selected by | each of 20 samples three times | one sample 30 times, 30 others |", "| --- | --- | --- |"]
    for peer, select in PEERS.items():
        cells = []
        for points in (copies(), popular()):
            rows, samples = distinct(select(points, COUNT), points)
            cells.append(f"{rows} rows, {samples} samples")
        lines.append(f"| {peer} | {cells[0]} | {cells[1]} |")
    lines += ["", "| selected by, with weights | heavy samples among 8 rows |", "| --- | --- |"]
    points, weights = heavy()
    for peer, fit in (("MiniBatchKMeans + nearest", minibatch), ("faiss.Kmeans + nearest", faiss_kmeans)):
        lines.append(f"| {peer} | {int((np.unique(fit(points, 8, weights)) >= LIGHT).sum())} of 5 |")
    lines += ["", "| features of some hundreds in float16 | |", "| --- | --- |"]
    with np.errstate(over="ignore"):
        squares = (large() * large()).sum(axis=1)
    lines.append(f"| NumPy, squared norms in float16 | {int(np.isinf(squares).sum())} of {len(squares)} are inf |")
    found = found_in_half(large().astype(np.float32) * 300)
    lines.append(f"| faiss `QT_fp16`, features 300 times as large | {found} of {len(squares)} find themselves |")
    return "\n".join(lines) + "\n"


def found_in_half(points: np.ndarray) -> int:
    """Samples that are their own nearest neighbour in an index that stores halves."""
    import faiss

    index = faiss.IndexScalarQuantizer(points.shape[1], faiss.ScalarQuantizer.QT_fp16)
    index.train(points)
    index.add(points)
    return int((index.search(points, 1)[1][:, 0] == np.arange(len(points))).sum())


def main() -> None:
    warnings.filterwarnings("ignore")
    page, (begin, end) = PAGE.read_text(), MARKS
    before, rest = page.split(begin)
    PAGE.write_text(before + begin + "\n" + table() + "\n" + end + rest.split(end)[1])


if __name__ == "__main__":
    main()
