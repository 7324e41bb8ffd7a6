"""Embeddings of a pool on disk, so that it is scored once however many runs begin with the same model."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vecaf_hf.data.whole_files import remove_stale, write_whole
from vecaf_hf.scoring.content_hash import add_tensor

logger = logging.getLogger(__name__)

FIELDS = ("embeddings", "labels")
CHECKSUM = "sha256"


class ScoreCache:
    """Embeddings and labels of whole pools, a file each.

    Processes may share the folder: a file appears whole or not at all, and holds a checksum of its content. What is
    damaged is not used, and makes way for what is made anew. A disk that cannot be written to costs the file, not the
    run.

    Args:
        folder: Made when the first file is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        remove_stale(self.folder)

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """`embeddings` [N, d] in float32 and `labels` of the pool of this key; None where there are none, or damaged
        ones, which a warning names."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                # In memory of their own: what is read from a file lies elsewhere in it, and sums differ in their last
                # bit.
                tensors = {name: file.get_tensor(name).clone() for name in FIELDS}
                expected = (file.metadata() or {}).get(CHECKSUM)
            if checksum(key, tensors) != expected:
                raise ValueError("its content is not what was written")
        except (OSError, SafetensorError, ValueError) as error:
            logger.warning("cannot read the kept scores %r (%s): they are made anew", str(path), error)
            return None
        return {**tensors, "embeddings": tensors["embeddings"].float()}

    def write(self, key: str, embeddings: Tensor, labels: Tensor) -> None:
        """Keep `embeddings` [N, d] and `labels` of a pool; or warn that this cannot be done."""
        tensors = {"embeddings": narrowest(embeddings).contiguous(), "labels": labels.contiguous()}
        metadata = {CHECKSUM: checksum(key, tensors)}
        path = self.path(key)
        try:
            write_whole(path, lambda unfinished: save_file(tensors, unfinished, metadata))
        except (OSError, SafetensorError) as error:
            logger.warning("cannot keep scores in %r (%s): the run goes on without", str(path), error)


def checksum(key: str, tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of a file's name and content."""
    digest = hashlib.sha256(key.encode())
    for name, values in sorted(tensors.items()):
        add_tensor(digest, name, values)
    return digest.hexdigest()


def narrowest(values: Tensor) -> Tensor:
    """The same numbers in the smallest type that holds them all: those of a model in bfloat16 take half the room."""
    for dtype in (torch.bfloat16, torch.float16):
        found = values.to(dtype)
        if torch.equal(found.to(values.dtype), values):
            return found
    return values
