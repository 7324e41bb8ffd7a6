"""The losses of CLIPstyler (arXiv 2112.00374, section 3): tensors in, a number out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def directional_losses(restyled: Tensor, sources: Tensor, text_direction: Tensor) -> Tensor:
    """1 - cos(Delta I, Delta T) of each image, where Delta I goes from the source's embedding to the restyled one's.

    Args:
        restyled: Embeddings of unit length. [n, d].
        sources: Of the source of each, of unit length. [n, d].
        text_direction: Delta T, from the source text's embedding to the prompt's. [d].

    Returns:
        Between 0 and 2. [n].
    """
    return 1 - functional.cosine_similarity(restyled - sources, text_direction[None], dim=1)


def patch_loss(restyled: Tensor, sources: Tensor, text_direction: Tensor, threshold: float) -> Tensor:
    """The mean of R(l_i, tau) over the views: a view that is near enough counts as zero, so that what is easily
    restyled does not take over.

    Args:
        restyled: Embeddings of the views. [n, d].
        sources: Of the source of each. [n, d].
        text_direction: Delta T. [d].
        threshold: Tau; R(l, tau) is 0 where l <= tau, else l.
    """
    losses = directional_losses(restyled, sources, text_direction)
    return torch.where(losses > threshold, losses, 0.0).mean()


def content_loss(restyled: Sequence[Tensor], sources: Sequence[Tensor]) -> Tensor:
    """The mean squared difference of features at each layer, summed over the layers; tensors of any shape."""
    pairs = zip(restyled, sources, strict=True)
    return torch.stack([functional.mse_loss(ours, theirs) for ours, theirs in pairs]).sum()


def total_variation(images: Tensor) -> Tensor:
    """The norms, over the whole batch, of the differences between pixels and their neighbours to the right, below and
    on both diagonals, summed as in the authors' code. [n, c, h, w]."""
    differences = (
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(difference) for difference in differences]).sum()
