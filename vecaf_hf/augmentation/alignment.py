"""Maps from a text encoder's space into the image embedding space.

The paper needs "text embeddings with the same dimensions" and leaves the two spaces as they are; these maps take
any dimension and put a caption near the images that it describes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

Fit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Penalty on the map from text embeddings of unit norm: settles the directions that few captions span.
RIDGE_PENALTY = 1.0


def ridge(texts: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression from text to image embeddings, with intercept. [n, d_t], [n, d] -> [d, d_t], [d]."""
    fitted = Ridge(alpha=RIDGE_PENALTY).fit(texts.numpy(), embeddings.numpy())
    return torch.as_tensor(fitted.coef_), torch.as_tensor(fitted.intercept_)


def procrustes(texts: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """The orthogonal map (semi-orthogonal where d_t != d), one scale and an offset, that fit best: angles between
    texts stay as they are. [n, d_t], [n, d] -> [d, d_t], [d]."""
    text_mean, image_mean = texts.mean(dim=0), embeddings.mean(dim=0)
    centred = texts - text_mean
    left, singular, right = torch.linalg.svd(centred.T @ (embeddings - image_mean), full_matrices=False)
    scale = singular.sum() / centred.square().sum().clamp(min=torch.finfo(texts.dtype).tiny)
    weight = scale * (left @ right).T
    return weight, image_mean - weight @ text_mean


def identity(texts: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """The paper as published: no map. An error when the dimensions differ."""
    if texts.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f'alignment="identity" needs text and image embeddings of one size, and they have {texts.shape[1]} and '
            f'{embeddings.shape[1]}: use alignment="ridge", or another text encoder'
        )
    return torch.eye(texts.shape[1]), torch.zeros(texts.shape[1])


# `dual` is the ridge map from the encoder's image embeddings, whose intercept takes up the gap between its two
# modalities when text is sent through it.
ALIGNMENTS: dict[str, Fit] = {"ridge": ridge, "procrustes": procrustes, "identity": identity, "dual": ridge}


class Aligner(nn.Linear):
    """The current map, t -> W t + b. [n, d_t] -> [n, d]."""

    def __init__(self, text_dimension: int, dimension: int) -> None:
        super().__init__(text_dimension, dimension)
        self.requires_grad_(False)

    def set(self, weight: Tensor, bias: Tensor) -> None:
        self.weight.copy_(weight)
        self.bias.copy_(bias)
