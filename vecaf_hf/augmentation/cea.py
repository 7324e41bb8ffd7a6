"""Cross-attentive Embedding Augmentation: Section 3.2 of VeCAF (arXiv 2401.07853), pure functions of tensors.

e are image embeddings [n, d], t text embeddings aligned with their space [n, d], one row a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

ATTENTIONS = ("mean_one", "paper", "none")


def attention(cosines: Tensor, mode: str, step_size: float) -> Tensor:
    """alpha of Eq. 8 from cos(e_i, t_i) over the samples that are augmented together. [n] -> [n].

    Args:
        cosines: cos(e_i, t_i). [n].
        mode: `paper` is Eq. 8 as published: a softmax, about 1/n, so that the augmentation fades with n.
            `mean_one` scales it by n and clips it to [0, 1/eta]: the mean is one for any n, and no embedding
            moves past its target. `none` is 1 for all.
        step_size: eta.
    """
    if mode == "none":
        return torch.ones_like(cosines)
    alpha = cosines.softmax(dim=0)
    if mode == "paper":
        return alpha
    alpha = len(cosines) * alpha
    return alpha.clamp(max=1 / step_size) if step_size > 0 else alpha


def rescaled(texts: Tensor, embeddings: Tensor) -> Tensor:
    """t with each row at the norm of its e: only its direction counts. The norm is a constant to autograd."""
    return texts * _norm_ratio(texts, embeddings)


def toward_caption(embeddings: Tensor, texts: Tensor) -> Tensor:
    """t - e, the direction of Eq. 9. [n, d], [n, d] -> [n, d]."""
    return rescaled(texts, embeddings) - embeddings


def toward_difference(embeddings: Tensor, texts: Tensor, references: Tensor) -> Tensor:
    """t - r, at the scale that puts t at the norm of e. [n, d], [n, d], [n, d] -> [n, d].

    What t and r share (the gap between the modalities, the class) cancels, and e itself is not pulled at.
    """
    return (texts - references) * _norm_ratio(texts, embeddings)


def toward_random(differences: Tensor, line: Tensor) -> Tensor:
    """The control of `toward_difference`: as long as its directions, all along one line of length one. [n, d], [d] ->
    [n, d]."""
    return differences.norm(dim=1, keepdim=True) * line


def augmented(embeddings: Tensor, direction: Tensor, alpha: Tensor, step_size: float) -> Tensor:
    """e_aug of Eq. 9: e - eta alpha (e - t) = e + eta alpha (t - e). [n, d], [n, d], [n] -> [n, d]."""
    return embeddings + step_size * alpha[:, None] * direction


def domain_similarity(embeddings: Tensor, domains: Tensor) -> Tensor:
    """cos(e_i, t_domain), with the nearest of the domains. [n, d], [D, d] -> [n]."""
    return torch.stack([cosine_similarity(embeddings, domain[None]) for domain in domains]).amax(dim=0)


def domain_affinity(similarities: Tensor, temperature: float) -> Tensor:
    """exp(cos(e_i, t_domain) / tau), scaled to at most 1: a factor on selection weights. [n] -> float64 [n], in which a
    class far from the prompt keeps its order too."""
    logits = similarities.double() / temperature
    return (logits - logits.max()).exp()


def _norm_ratio(texts: Tensor, embeddings: Tensor) -> Tensor:
    norms = texts.detach().norm(dim=1, keepdim=True).clamp(min=1e-12)
    return embeddings.detach().norm(dim=1, keepdim=True) / norms
