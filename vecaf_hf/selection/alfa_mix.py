"""ALFA-Mix: active learning by feature mixing (arXiv 2203.07034, Section 3).

A sample is worth selecting where a small step from its embedding z towards what the model has seen already changes
the prediction. z_mixed = alpha z* + (1 - alpha) z, with an anchor z* and one alpha per coordinate.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.selection.candidates import Candidates, LinearHead
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.products import chunks
from vecaf_hf.selection.registry import strategy
from vecaf_hf.selection.selection import Selection

# epsilon = STEP / sqrt(d).
STEP = 0.2


@strategy(needs={"embeddings", "labels", "head"})
def alfa_mix(candidates: Candidates, budget: int, options: SelectionOptions, generator: torch.Generator) -> Selection:
    """ALFA-Mix (arXiv 2203.07034): samples whose prediction flips when mixed with selected ones, one of each cluster.

    Anchors are class means of the candidates that earlier loops selected; where there are none, as in the first loop,
    of K random ones, active learning's first round. If fewer than K samples flip, random ones make up for it, as in
    the official code (which first lengthens the step). All candidates may be selected, also once more: all have labels.
    """
    assert candidates.head is not None
    classes = candidates.needed_classes("alfa_mix")
    if len(candidates.head.bias) < 2:
        raise ValueError("strategy 'alfa_mix' needs a prediction that can flip, and the model has one output")
    embeddings, head = candidates.given("embeddings").float(), candidates.head  # [M, d]
    labelled = _labelled(candidates.selected, len(candidates), budget, generator).to(embeddings.device)
    anchors = class_means(embeddings[labelled], classes[labelled])  # [A, d]
    flipped = [flips(block, anchors, head) for _, block in chunks(embeddings, embeddings.shape[1] + len(head.bias))]
    found = torch.cat(flipped).nonzero().squeeze(1)
    # The candidates' logits, gradients and mixed logits, and their distances to the anchors.
    flops = 2.0 * embeddings.numel() * (3 * len(head.bias) + len(anchors))
    rows, clustering = found.cpu(), 0.0
    if len(found) > budget:
        kept, clustering = one_of_each_cluster(normalize(embeddings[found], dim=-1).cpu(), budget, generator)
        rows = rows[kept]
    return Selection(
        candidates.indices.cpu()[_filled(rows, len(candidates), budget, generator)],
        info={"flipped": len(found), "flops": flops + clustering},
    )


def class_means(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Anchors z*: the mean embedding of each class that there is. [n, d], [n] -> [A, d]."""
    classes, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = embeddings.new_zeros(len(classes), embeddings.shape[1]).index_add_(0, inverse, embeddings)
    return sums / counts[:, None]


def flips(embeddings: Tensor, anchors: Tensor, head: LinearHead) -> Tensor:
    """Whether mixing a sample with some anchor changes its prediction. [N, d], [A, d] -> BoolTensor [N].

    A linear head's predictions are convex regions, so a ray that has left one does not come back: some anchor flips a
    sample just if the farthest does.
    """
    logits = head.logits(embeddings)
    mixed = mixed_with_farthest(embeddings, anchors, gradient_direction(logits, head))
    return head.logits(mixed).argmax(dim=1) != logits.argmax(dim=1)


def mixed_with_farthest(embeddings: Tensor, anchors: Tensor, direction: Tensor) -> Tensor:
    """z_mixed with the optimal alpha* and the farthest anchor. z [N, d], z* [A, d], grad / ||grad|| [N, d] -> [N, d].

    The closed form alpha* = epsilon (||z* - z|| / ||grad||) grad / (z* - z) moves z by alpha* (z* - z), which is
    epsilon ||z* - z|| along its loss gradient. (It is the best step of that length; the bound ||alpha|| <= epsilon that
    the paper states, it can exceed.) So anchors differ in the length of the step alone.
    """
    farthest = torch.cdist(embeddings, anchors).amax(dim=1, keepdim=True)  # max ||z* - z|| [N, 1]
    return embeddings + STEP / embeddings.shape[1] ** 0.5 * farthest * direction


def gradient_direction(logits: Tensor, head: LinearHead) -> Tensor:
    """grad / ||grad|| of the pseudo-label's cross entropy in the embedding. [N, C] -> [N, d].

    grad = W^T (p - onehot(y)) = (1 - p_y) (sum_{c != y} q_c W_c - W_y), q the softmax over the other classes. The
    factor 1 - p_y, lost to rounding where the model is sure, does not matter.
    """
    pseudo_labels = logits.argmax(dim=1)
    others = logits.scatter(1, pseudo_labels[:, None], -torch.inf).softmax(dim=1)
    return normalize(others @ head.weight - head.weight[pseudo_labels], dim=-1)


def one_of_each_cluster(vectors: Tensor, budget: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """The sample nearest to the centre of each of K k-means clusters, and the FLOPs. [n, d] -> LongTensor [<= K].

    Fewer than K if there are fewer distinct samples.
    """
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    values = vectors.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer distinct samples than clusters
        clusters = KMeans(budget, n_init=1, random_state=seed).fit(values)
    distances = np.square(values - clusters.cluster_centers_[clusters.labels_]).sum(axis=1)
    # Two samples that are a cluster are equally far from its centre: the lower index decides, and not rounding.
    order = np.lexsort((distances.round(6), clusters.labels_))
    _, first = np.unique(clusters.labels_[order], return_index=True)
    return torch.from_numpy(order[first]).sort().values, 2.0 * values.size * budget * clusters.n_iter_


def _labelled(selected: Tensor | None, size: int, budget: int, generator: torch.Generator) -> Tensor:
    if selected is not None and selected.any():
        return selected.nonzero().squeeze(1)
    return torch.randperm(size, generator=generator)[:budget]


def _filled(rows: Tensor, size: int, budget: int, generator: torch.Generator) -> Tensor:
    """The rows, and as many random others as the budget still has room for. LongTensor [K]."""
    others = torch.randperm(size, generator=generator)
    others = others[~torch.isin(others, rows)]
    return torch.cat([rows, others[: budget - len(rows)]])
