"""Hashes of what embeddings are made of: a model but for its head, a dataset as it is stored, batches as they are
loaded. Each is the same in every process, run and machine that has the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from torch import Tensor, nn

from vecaf_hf.scoring.sharded import share_out, whole

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

# Rows of a dataset that are read at once.
ROWS = 1000
# Of a model's configuration, what no embedding depends on.
OF_HEAD = {"id2label", "label2id", "num_labels", "problem_type"}
OF_PLACE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}


def model_hash(model: nn.Module, head: nn.Module) -> str:
    """Of all parameters and buffers but those of the head, and of how the model is made."""
    # Printed, a model shows what its layers are, and how they are set.
    described = [type(model).__module__, type(model).__qualname__, str(model), _configured(model)]
    digest = hashlib.sha256(json.dumps(described, default=str).encode())
    share_out(model)
    of_head = {id(values) for values in chain(head.parameters(), head.buffers())}
    for name, values in chain(model.named_parameters(), model.named_buffers()):
        if id(values) not in of_head:
            add_tensor(digest, name, whole(values))
    return digest.hexdigest()


def dataset_hash(dataset: datasets.Dataset) -> str:
    """Of all rows as they are stored, in their order. A file that a row only points to, in a column of images or of
    paths, counts by its name, size and time of change."""
    digest = hashlib.sha256(str(len(dataset)).encode())
    columns = [name for name, feature in dataset.features.items() if _may_point(dataset, name, feature)]
    for block in dataset.with_format("arrow").iter(ROWS):
        # Values, not memory: Arrow leaves bits of it to chance.
        for row in block.to_pylist():
            _add_value(digest, row)
            for path in (_path(row[name]) for name in columns):
                digest.update(_changed(path).encode())
    return digest.hexdigest()


def batches_hash(batches: Iterable[Mapping[str, Any]]) -> str:
    """Of all that is in them."""
    digest = hashlib.sha256()
    for batch in batches:
        for name, values in sorted(batch.items()):
            if isinstance(values, Tensor):
                add_tensor(digest, name, values)
            else:
                digest.update(f"{name} {values!r} ".encode())
    return digest.hexdigest()


def add_tensor(digest: Hash, name: str, values: Tensor) -> None:
    """A tensor's name, type, shape and bytes."""
    values = values.detach().cpu().contiguous()
    digest.update(f"{name} {values.dtype} {list(values.shape)} ".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)


def _configured(model: nn.Module) -> dict[str, Any]:
    config: Any = getattr(model, "config", None)
    values = config.to_dict() if hasattr(config, "to_dict") else {}
    kept = {name: value for name, value in values.items() if name not in OF_HEAD | OF_PLACE}
    return kept | {"attention": getattr(config, "_attn_implementation", None)}


def _may_point(dataset: datasets.Dataset, name: str, feature: Any) -> bool:
    if isinstance(feature, datasets.Image):
        return True
    if not isinstance(feature, datasets.Value) or feature.dtype not in ("string", "large_string"):
        return False
    first = dataset.with_format("arrow")[:1][name].to_pylist()
    return bool(first) and first[0] is not None and len(first[0]) < 4096 and os.path.isfile(first[0])


def _add_value(digest: Hash, value: Any) -> None:
    if isinstance(value, bytes):
        digest.update(f"bytes {len(value)} ".encode() + value)
    elif isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype} {value.shape} ".encode() + value.tobytes())
    elif isinstance(value, dict):
        for name, held in value.items():
            digest.update(f"{name!r}: ".encode())
            _add_value(digest, held)
    elif isinstance(value, list) and value and not isinstance(value[0], (int, float, str)):
        digest.update(f"list {len(value)} ".encode())
        for held in value:
            _add_value(digest, held)
    else:
        digest.update(f"{value!r} ".encode())


def _path(value: Any) -> str | None:
    """Of an image, or of a file; an image whose bytes are in the row needs none."""
    if isinstance(value, dict):
        return None if value.get("bytes") is not None else value.get("path")
    return value


def _changed(path: str | None) -> str:
    if path is None:
        return ""
    try:
        found = os.stat(path)
    except OSError:
        return f"{path} missing "
    return f"{path} {found.st_size} {found.st_mtime_ns} "
