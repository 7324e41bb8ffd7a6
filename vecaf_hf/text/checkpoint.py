"""A text encoder's checkpoint, on the Hub or in a folder: what kind of model it is, and its parts loaded."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
)
from transformers.utils import cached_file

from vecaf_hf.printable import printable
from vecaf_hf.text.pooling import POOLINGS, SENTENCE_POOLINGS

# The end of the names of CLIP's and its kin's text towers that have a projection.
PROJECTING = "TextModelWithProjection"
KIND = "text encoder"
LOADING_ADVICE = "check the spelling, log in with `hf auth login` if it is gated or private, or pass a local folder"


class TextCheckpoint:
    """Any encoder that transformers can load; the configuration at once, its parts when they are asked for.

    Args:
        name_or_path: A Hub id or a folder.
        revision: Branch, tag or commit of the Hub id.
        trust_remote_code: Whether to run modelling code that the checkpoint brings.

    Attributes:
        revision: The commit that the configuration came from, should the branch move meanwhile.
        model_class: The least that turns text into vectors: of a T5, the encoder.

    Raises:
        ValueError: The checkpoint is not found, not accessible or no text encoder.
    """

    def __init__(self, name_or_path: str, revision: str | None, trust_remote_code: bool) -> None:
        self.name_or_path, self.revision, self.trust_remote_code = name_or_path, revision, trust_remote_code
        self.config: PreTrainedConfig = self._load(AutoConfig, "configuration")
        self.revision = getattr(self.config, "_commit_hash", None) or revision
        self.model_class = self._find_model_class()

    @property
    def is_dual(self) -> bool:
        """Whether the model also embeds images, into the same space."""
        return all(hasattr(self.model_class, f"get_{part}_features") for part in ("text", "image"))

    @property
    def is_siglip(self) -> bool:
        return str(self.text_config.model_type).startswith("siglip")

    @property
    def text_config(self) -> PreTrainedConfig:
        """The part of a dual encoder's configuration that is about text."""
        return getattr(self.config, "text_config", None) or self.config

    def pooling(self) -> str:
        """The pooling that goes with this kind of model, one of POOLINGS."""
        name, kind = self.model_class.__name__, self.config.model_type
        projects = hasattr(self.model_class, "get_text_features") or name.endswith(PROJECTING)
        if projects or kind == "clip_text_model":
            return "pooled"
        causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        default = "last" if causal and not self.config.is_encoder_decoder else "mean"
        return self._sentence_pooling() or default

    def tokenizer(self) -> Any:
        """With a padding token, and padding where the model expects it.

        Raises:
            ValueError: The checkpoint has no tokenizer.
        """
        tokenizer = self._load(AutoTokenizer, "tokenizer")
        check_vocabulary(tokenizer, KIND, self.name_or_path)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if not self.is_siglip:
            # GPT-2 counts absolute positions from the left, padding included.
            tokenizer.padding_side = "right"
        return tokenizer

    def image_processor(self) -> Any:
        return self._load(AutoImageProcessor, "image processor")

    def model(self, pooling: str, dtype: torch.dtype) -> Any:
        """The frozen model on the CPU; of an encoder-decoder, the encoder.

        Raises:
            ValueError: It cannot be loaded, or lacks weights that this pooling needs.
        """
        config = copy.deepcopy(self.config)
        if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
            config.is_encoder_decoder = False
        model, report = self._load(self.model_class, "weights", config=config, dtype=dtype, output_loading_info=True)
        missing = report["missing_keys"]
        if pooling != "pooled":
            missing = [name for name in missing if "pooler" not in name]
        if missing:
            raise ValueError(
                f"{self.name_or_path!r} has no weights for pooling={pooling!r}: {sorted(missing)[0]} is missing"
            )
        encoder = model.get_encoder() if config.is_encoder_decoder else model
        return encoder.eval().requires_grad_(False)

    def _find_model_class(self) -> Any:
        config, found = self.config, None
        projecting = [name for name in config.architectures or [] if name.endswith(PROJECTING)]
        if projecting and hasattr(transformers, projecting[0]):
            found = getattr(transformers, projecting[0])
        elif config.is_encoder_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
            found = MODEL_FOR_TEXT_ENCODING_MAPPING[type(config)]
        elif type(config) in MODEL_MAPPING:
            found = MODEL_MAPPING[type(config)]
        elif self.trust_remote_code and "AutoModel" in getattr(config, "auto_map", {}):
            code = config.auto_map["AutoModel"]
            found = get_class_from_dynamic_module(code, self.name_or_path, revision=self.revision)
        found = found[0] if isinstance(found, tuple) else found
        if getattr(found, "main_input_name", None) != "input_ids" and not hasattr(found, "get_text_features"):
            raise ValueError(f"{self.name_or_path!r} is no text encoder: a {config.model_type} takes no text")
        return found

    def _sentence_pooling(self) -> str | None:
        """The pooling of a sentence-transformers checkpoint; None for any other."""
        for module in self._read_json("modules.json") or []:
            if not module["type"].endswith(".Pooling"):
                continue
            config = self._read_json(f"{module['path']}/config.json") or {}
            named = config.get("pooling_mode") or [
                name.removeprefix("pooling_mode_")
                for name, on in config.items()
                if name.startswith("pooling_mode_") and on
            ]
            names = [named] if isinstance(named, str) else named
            if len(names) == 1 and names[0] in SENTENCE_POOLINGS:
                return SENTENCE_POOLINGS[names[0]]
            raise ValueError(
                f"{self.name_or_path!r} pools by {names}, which is not supported: choose pooling from "
                f"{', '.join(POOLINGS[1:])}"
            )
        return None

    def _read_json(self, name: str) -> Any:
        path = cached_file(
            self.name_or_path,
            name,
            revision=self.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))

    def _load(self, source: Any, part: str, **options: Any) -> Any:
        options |= {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        return load_part(source, part, KIND, self.name_or_path, **options)


def load_part(source: Any, part: str, kind: str, name_or_path: str, **options: Any) -> Any:
    """`source.from_pretrained`, with errors that say which part of which kind of checkpoint is wrong."""
    try:
        return source.from_pretrained(name_or_path, **options)
    except Exception as error:  # Of any type, by what the checkpoint lacks.
        reason = printable(" ".join(str(error).split()))
        advice = f"; {LOADING_ADVICE}" if isinstance(error, OSError) else ""
        raise ValueError(f"cannot load the {part} of {kind} {name_or_path!r}: {reason}{advice}") from error


def check_vocabulary(tokenizer: Any, kind: str, name_or_path: str) -> None:
    """Raise a ValueError where transformers had no tokenizer files: it makes an empty one (T5's knows a blank), for
    which all texts are alike."""
    if len(tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()) <= 1:
        raise ValueError(f"{kind} {name_or_path!r} has no tokenizer files: save its tokenizer beside the model")
