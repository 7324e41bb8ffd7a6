"""What of a run leaves the machine: the model, its card and pictures; no pickled arguments, no log, no path of this
machine. Checkpoints, where they are asked for, hold torch's own states of optimizer, schedule and generators."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd
from transformers.trainer import FSDP_MODEL_NAME, OPTIMIZER_NAME_BIN, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy

from vecaf_hf.checkpoint.files import RUN_FILE, checkpoints_of_run
from vecaf_hf.loop.sharding import CHECKPOINTS_PUSHED
from vecaf_hf.loop.state import JSON_FILE, TENSORS_FILE
from vecaf_hf.reporting.card import PLOTS
from vecaf_hf.reporting.local_paths import without_paths, without_places

ARGUMENTS = "training_args.json"
WEIGHTS = ".safetensors"
MODEL = {".json", WEIGHTS, ".model", "vocab.txt", "merges.txt"}
DOCUMENTS = {".md", ".png", ".jpg", ".jpeg", ".svg", "LICENSE"}
# States of optimizer, schedule and generators, and with FSDP the weights that an adapter resumes from, which Trainer
# writes with torch.save and reads with weights_only.
STATES = {".pt", ".pth", OPTIMIZER_NAME_BIN, f"{FSDP_MODEL_NAME}.bin"}
LAST_CHECKPOINT = "last-checkpoint"
# A run's own files, which nothing needs that loads the model.
LOGS = {RUN_FILE, TRAINER_STATE_NAME, JSON_FILE, TENSORS_FILE}
# Files in which paths stand as arguments or in the words of an error.
WITH_PATHS = {ARGUMENTS, TRAINER_STATE_NAME, JSON_FILE}

Files = dict[str, Path]


def run_files(folder: Path, strategy: HubStrategy) -> Files:
    """A finished run's files by their places in the repository, with the checkpoints that the strategy asks for.

    Raises:
        ValueError: The folder holds no model.
    """
    files = {**documents_in(folder), **model_in(folder)}
    if not any(path.suffix == WEIGHTS for path in files.values()):
        raise ValueError(
            f"{folder} holds no model.safetensors, so no finished run: give the output_dir of a run that has saved its "
            f"model, or one of its {PREFIX_CHECKPOINT_DIR}-N folders"
        )
    if strategy in CHECKPOINTS_PUSHED:
        checkpoints = checkpoints_of_run(folder)
        for checkpoint in checkpoints[-1:] if strategy == HubStrategy.CHECKPOINT else checkpoints:
            files |= checkpoint_in(checkpoint, strategy)
    return files


def model_in(folder: Path) -> Files:
    """What loads the model, and the run's arguments and metrics."""
    return {path.name: path for path in _files(folder, MODEL) if path.name not in LOGS}


def documents_in(folder: Path) -> Files:
    """The card and all pictures beside it."""
    pictures = {f"{PLOTS}/{path.name}": path for path in _files(folder / PLOTS, DOCUMENTS)}
    return pictures | {path.name: path for path in _files(folder, DOCUMENTS)}


def checkpoint_in(folder: Path, strategy: HubStrategy) -> Files:
    """All that a run resumes from."""
    place = LAST_CHECKPOINT if strategy == HubStrategy.CHECKPOINT else folder.name
    return {f"{place}/{path.name}": path for path in _files(folder, MODEL | STATES)}


def linked(files: Mapping[str, Path], folder: Path) -> Files:
    """The same files under second names in this folder, which outlive a checkpoint that is removed meanwhile."""
    folder.mkdir(parents=True)
    links = {}
    for number, (place, path) in enumerate(files.items()):
        link = folder / f"{number}-{path.name}"
        try:
            os.link(path, link)
        except OSError:  # A file system without hard links.
            shutil.copyfile(path, link)
        links[place] = link
    return links


def addition(place: str, path: Path, folders: Collection[str]) -> CommitOperationAdd:
    """The file as it is committed. All but weights and states is read at once: it may be written anew meanwhile.

    Args:
        place: Its path in the repository.
        folders: The run's folder, as its arguments may name it.
    """
    name = place.rpartition("/")[2]
    if {path.suffix, path.name} & (STATES | {WEIGHTS}):
        return CommitOperationAdd(place, path)
    content = path.read_bytes()
    if name in WITH_PATHS:
        content = _dumped(without_paths(json.loads(content), folders))
    elif name.endswith("config.json") and (config := json.loads(content)) != (cleaned := without_places(config)):
        content = _dumped(cleaned)
    return CommitOperationAdd(place, content)


def saved_arguments(folder: Path) -> dict[str, Any]:
    """The run's arguments, as it has saved them; empty where it has not."""
    path = folder / ARGUMENTS
    return json.loads(path.read_text()) if path.is_file() else {}


def _files(folder: Path, kinds: Collection[str]) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        path
        for path in found
        if path.is_file() and (path.suffix in kinds or path.name in kinds) and path.name[0] not in "._"
    ]


def _dumped(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
