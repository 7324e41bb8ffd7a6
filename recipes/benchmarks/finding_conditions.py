"""Hidden conditions found from a model's scores: ours beside Domino's mixture as published, in the same run.

    python recipes/benchmarks/finding_conditions.py SCORES [SCORES ...] [--captions FILE] [--seed 0]

SCORES is a safetensors file of scored samples: `embeddings` [N, d], `labels` [N], `losses` [N], `logits` [N, C],
`appearance` [N, s] as `vecaf_hf.scoring.appearance` makes it of the images, and `cond` [N], the condition of each
sample, the commonest value for none. Without `logits`, a logistic regression on a tenth of the samples makes them and
the losses; without `appearance`, embeddings are all that there is. Told are, for each condition, the best precision at
10 over all groups, and how many of the first four groups have fewer than half of their first ten samples in one
condition. With `--captions`, a file with a caption a line, ours are told with their names too, which takes
some of their seconds.

Domino (arXiv 2203.14960) as its authors publish it: 128 principal components, 25 slices with diagonal covariance, label
and prediction weighing 10 each, begun from the confusion matrix, slices ranked by how far their labels and predictions
are apart.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch.nn.functional import cross_entropy

from vecaf_hf.conditions.condition import find_conditions
from vecaf_hf.selection.candidates import Candidates

Array = NDArray[np.float64]
SLICES, WEIGHT, COMPONENTS, ITERATIONS, TOLERANCE, NOISE = 25, 10.0, 128, 100, 1e-3, 1e-3
FIRST, TOP = 4, 10


def domino(embeddings: Array, labels: NDArray[np.int64], predicted: Array, seed: int) -> list[NDArray[np.int64]]:
    """Each slice's samples, the surest first; the slices as Domino ranks them. [N, d], [N], [N, C]."""
    places = PCA(min(COMPONENTS, *embeddings.shape), random_state=seed).fit_transform(embeddings)
    true = np.eye(predicted.shape[1])[labels]
    # A slice begins as a cell of the confusion matrix, the fullest ones first.
    shares = (true[:, :, None] * predicted[:, None, :]).reshape(len(labels), -1)
    shares = shares[:, np.argsort(-shares.sum(axis=0))[:SLICES]]
    shares = shares + np.random.default_rng(seed).uniform(0, NOISE, shares.shape)
    shares /= shares.sum(axis=1, keepdims=True)
    before = -np.inf
    for _ in range(ITERATIONS):
        counts = shares.sum(axis=0)[:, None] + 1e-10
        means = shares.T @ places / counts
        variances = shares.T @ places**2 / counts - means**2 + 1e-6
        of_true, of_predicted = shares.T @ true / counts, shares.T @ predicted / counts
        squares = places**2 @ (1 / variances).T - 2 * places @ (means / variances).T
        density = -0.5 * (squares + (means**2 / variances + np.log(variances)).sum(axis=1))
        by_label = true @ np.log(of_true.T + 1e-12) + np.log(predicted @ of_predicted.T + 1e-12)
        joint = density + WEIGHT * by_label + np.log(counts[:, 0] / len(labels))
        total = logsumexp(joint, axis=1, keepdims=True)
        shares = np.exp(joint - total)
        if abs(total.mean() - before) < TOLERANCE:
            break
        before = total.mean()
    ranked = np.argsort(-np.abs(of_true - of_predicted).max(axis=1))
    return [np.argsort(-shares[:, slice_], kind="stable") for slice_ in ranked]


def read(file: Path, seed: int) -> tuple[Candidates, NDArray[np.int64]]:
    found = load_file(file)
    embeddings, labels = found["embeddings"].float(), found["labels"]
    logits = found.get("logits")
    losses = found["losses"].float()
    if logits is None:
        scaled = (embeddings / embeddings.std()).numpy()
        rows = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 10]
        head = LogisticRegression(C=0.1, max_iter=300).fit(scaled[rows], labels[rows].numpy())
        logits = torch.as_tensor(head.decision_function(scaled)).float()
        losses = cross_entropy(logits, labels, reduction="none")
    candidates = Candidates(
        torch.arange(len(labels)), embeddings, losses, labels, logits.float(), appearance=found.get("appearance")
    )
    return candidates, found["cond"].numpy()


def told(name: str, groups: list[NDArray[np.int64]], conditions: NDArray[np.int64], seconds: float) -> str:
    values, counts = np.unique(conditions, return_counts=True)
    hidden = values[values != values[counts.argmax()]]
    precision = np.array([[(conditions[group[:TOP]] == one).mean() for one in hidden] for group in groups])
    best = precision.max(axis=0) if len(groups) else np.zeros(len(hidden))
    false = sum(row.max() < 0.5 for row in precision[:FIRST])
    cells = " | ".join(f"{one:.1f}" for one in best)
    return f"| {name} | {cells} | {false} of {len(precision[:FIRST])} | {len(groups)} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("scores", type=Path, nargs="+", metavar="SCORES")
    parser.add_argument("--captions", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    captions = given.captions.read_text(encoding="utf-8").split("\n") if given.captions else None
    for file in given.scores:
        candidates, conditions = read(file, given.seed)
        if captions and len(captions) < len(conditions):
            parser.error(f"{given.captions} has {len(captions)} lines, and {file} {len(conditions)} samples")
        print(
            f"{file.stem}: precision at {TOP} by condition | false of the first {FIRST} | groups | seconds", flush=True
        )
        begun = time.perf_counter()
        found = find_conditions(candidates, captions, [], {}, given.seed)
        groups = [group.members.numpy() for _, group in found]
        print(told("ours", groups, conditions, time.perf_counter() - begun), flush=True)
        for one, group in found if captions else ():
            most, count = Counter(conditions[group.members.numpy()].tolist()).most_common(1)[0]
            print(f"  {one.title}: {count} of {len(group.members)} under condition {most}", flush=True)
        predicted = candidates.given("logits").double().softmax(dim=1).numpy()
        embeddings, labels = candidates.given("embeddings").double().numpy(), candidates.given("labels").numpy()
        begun = time.perf_counter()
        with threadpool_limits(1, user_api="blas"):
            slices = domino(embeddings, labels, predicted, given.seed)
        print(told("Domino", slices, conditions, time.perf_counter() - begun), flush=True)


if __name__ == "__main__":
    main()
