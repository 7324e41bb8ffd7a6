"""What fitting a linear head on embeddings takes, as a ratio to scikit-learn's logistic regression in the same run.

    python recipes/benchmarks/probe_fit.py [--samples 4000 20000] [--classes 10 100] [--rounds 3] [--busy]

EfficientNet-Lite0's embeddings of the quickstart's Fashion-MNIST images; more samples than images are images drawn
again, with noise. More than ten classes are parts of the ten, by k-means. scikit-learn's BLAS has one thread, which is
its best beside torch. Both take turns; seconds, CPU seconds and the objective that each ends at are compared. With
--busy another process trains all the while.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import cross_entropy

from vecaf_hf.cli.building import build_trainer
from vecaf_hf.cli.options import parse
from vecaf_hf.scoring.logistic import MAX_ITERATIONS, logistic_regression

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
NOISE = 0.3
Fit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def embeddings_of(images: int) -> tuple[Tensor, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        options = f"--config {QUICKSTART} --output_dir {folder} --text_encoder none --max_train_samples {images}"
        trainer, _ = build_trainer(*parse({}, options.split()))
        scored = trainer.scorer.score(torch.arange(images))
    assert scored.embeddings is not None and scored.classes is not None
    return scored.embeddings / scored.embeddings.std(), scored.classes


def sized(embeddings: Tensor, labels: Tensor, samples: int, classes: int) -> tuple[Tensor, Tensor]:
    """As many samples, in as many classes."""
    if classes > 10:
        parts = MiniBatchKMeans(classes // 10, random_state=0, n_init=1).fit_predict(embeddings.numpy())
        labels = labels * (classes // 10) + torch.as_tensor(parts).long()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(labels), generator=generator).repeat(-(-samples // len(labels)))[:samples]
    again = torch.arange(samples) >= len(labels)
    found = embeddings[rows]
    found[again] += NOISE * torch.randn(int(again.sum()), found.shape[1], generator=generator)
    return found, labels[rows].unique(return_inverse=True)[1]


def ours(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias, _ = logistic_regression(embeddings, labels, int(labels.max()) + 1)
    return weight, bias


def scikit_learns(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver = LogisticRegression(max_iter=MAX_ITERATIONS).fit(embeddings.numpy(), labels.numpy())
    return torch.as_tensor(solver.coef_), torch.as_tensor(solver.intercept_)


def measured(fit: Fit, embeddings: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and the objective that was reached, per sample."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    weight, bias = fit(embeddings, labels)
    spent, spent_cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    logits = embeddings.double() @ weight.double().T + bias.double()
    penalty = weight.double().square().sum() / (2 * len(labels))
    return spent, spent_cpu, float(cross_entropy(logits, labels) + penalty)


def train_forever() -> None:
    """A small network on random images."""
    torch.set_num_threads(1)
    layers = [torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers)
    while True:
        model(torch.randn(16, 3, 64, 64)).square().mean().backward()


def main(samples: list[int], classes: list[int], rounds: int, images: int) -> None:
    known = embeddings_of(images)
    print(f"torch has {torch.get_num_threads()} threads\n")
    print("| samples | classes | seconds / scikit-learn's | CPU seconds, likewise | objective | scikit-learn's |")
    print("|---|---|---|---|---|---|")
    for count in samples:
        for number in classes:
            data = sized(*known, count, number)
            pairs = [(measured(ours, *data), measured(scikit_learns, *data)) for _ in range(rounds)]
            wall, cpu = (statistics.median(one[of] / other[of] for one, other in pairs) for of in (0, 1))
            reached, theirs = pairs[0][0][2], pairs[0][1][2]
            print(f"| {count} | {number} | {wall:.2f} | {cpu:.2f} | {reached:.5f} | {theirs:.5f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[4000, 20000])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--busy", action="store_true")
    given = parser.parse_args()
    beside = multiprocessing.get_context("spawn").Process(target=train_forever, daemon=True)
    if given.busy:
        beside.start()
    main(given.samples, given.classes, given.rounds, given.images)
    if given.busy:
        beside.terminate()
