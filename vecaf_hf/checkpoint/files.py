"""Checkpoints that are whole: telling them from half-written ones, loading their weights strictly, and what to say when
the disk is full."""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer import OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)

from vecaf_hf.loop.state import JSON_FILE, TENSORS_FILE
from vecaf_hf.scoring.sharded import load_whole_state

logger = logging.getLogger(__name__)

# In the run's output_dir: the id of the run that writes there.
RUN_FILE = "vecaf_run.json"
# Of DeepSpeed: the name of the folder with its states.
LATEST = "latest"
# Words by which an error of torch.save's writer is known.
TORCH_WRITER = ("inline_container", "iostream", "PytorchStreamWriter", "unexpected pos")


def find_checkpoint(resume_from_checkpoint: str | bool, output_dir: str) -> str | None:
    """The checkpoint to resume from: the given folder, or with True the last whole one of the run.

    Returns:
        A folder; None if the run has no whole checkpoint yet and must begin at its beginning.

    Raises:
        ValueError: The given folder is no whole checkpoint; the message names the file.
    """
    if str(resume_from_checkpoint).lower() == "true" and not Path(str(resume_from_checkpoint)).exists():
        # As command lines give it.
        resume_from_checkpoint = True
    if resume_from_checkpoint is not True:
        folder = Path(str(resume_from_checkpoint))
        damage = find_damage(folder)
        if damage is not None:
            raise ValueError(
                f"cannot resume from {folder}: {damage}, so it was not written by VeCAFTrainer or not to its end; use "
                "an earlier checkpoint, or resume_from_checkpoint=True for the last whole one"
            )
        return str(folder)
    run = latest_run(output_dir)
    for folder in sorted(Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_step, reverse=True):
        damage = find_damage(folder)
        if damage is not None:
            logger.warning("%s is passed over: %s, so it was not written to its end", folder, damage)
        elif run is not None and _state(folder).get("run") != run:
            logger.warning("%s is passed over: an earlier run wrote it, which its path resumes", folder)
        else:
            return str(folder)
    logger.warning("%s has no whole checkpoint of its last run: the run starts from the beginning", output_dir)
    return None


def whole_checkpoints(output_dir: Path) -> list[Path]:
    """The whole ones in a run's folder, whichever run wrote them, in the order of their steps."""
    found = sorted(output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_step)
    return [folder for folder in found if _step(folder) >= 0 and find_damage(folder) is None]


def checkpoints_of_run(output_dir: Path) -> list[Path]:
    """The whole ones of the run that wrote here last, in the order of their steps; all, where it has left no id."""
    run = latest_run(str(output_dir))
    return [folder for folder in whole_checkpoints(output_dir) if run is None or _state(folder).get("run") == run]


def claim(output_dir: str, run: str) -> None:
    """Note which run writes its checkpoints here from now on: those of earlier ones are no longer resumed by True."""
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    unfinished = Path(output_dir, f"{RUN_FILE}.tmp")
    unfinished.write_text(json.dumps({"run": run}))
    _sync(unfinished)
    os.replace(unfinished, Path(output_dir, RUN_FILE))


def latest_run(output_dir: str) -> str | None:
    """The id of the run that has claimed the folder last, or None."""
    path = Path(output_dir, RUN_FILE)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())["run"]
    except (ValueError, KeyError):
        logger.warning("%s is damaged: the last whole checkpoint is taken, whichever run wrote it", path)
        return None


def _state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / JSON_FILE).read_text())


def _step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def find_damage(folder: Path) -> str | None:
    """What keeps a run from resuming here, a file that is missing or not written to its end; None if nothing does."""
    weights = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, ADAPTER_SAFE_WEIGHTS_NAME)
    if not any((folder / name).is_file() for name in weights):
        return f"it has no {weights[0]}"
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in (JSON_FILE, TENSORS_FILE, TRAINER_STATE_NAME):
        if name not in present:
            return f"it has no {name}"
    for name in sorted(present):
        if not is_readable(folder / name):
            return f"{name} is damaged"
    identity = _state(folder).get("identity", {})
    expected = _shards(folder) | _generators(identity) | _optimizer(folder, identity, present)
    lacking = sorted(expected - present)
    return f"it has no {lacking[0]}" if lacking else None


def is_readable(path: Path) -> bool:
    """Whether a file was written to its end, as far as its kind tells."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            # The header's sizes are checked against the file's.
            with safe_open(path, framework="pt"):
                pass
        elif path.suffix in (".pt", ".pth", ".bin"):
            # torch writes zip archives, whose directory comes last.
            return zipfile.is_zipfile(path)
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def _shards(folder: Path) -> set[str]:
    """Files that an index of weights names."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    return set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()


def _generators(identity: Mapping[str, Any]) -> set[str]:
    """Files with the states of the processes' generators."""
    world = identity.get("world_size", 0)
    return {"rng_state.pth"} if world == 1 else {f"rng_state_{rank}.pth" for rank in range(world)}


def _optimizer(folder: Path, identity: Mapping[str, Any], present: set[str]) -> set[str]:
    """Files with the states of optimizer and schedule."""
    stage = identity.get("zero_stage")
    if stage is None:
        # With FSDP the optimizer's has another name.
        return {OPTIMIZER_NAME_BIN if OPTIMIZER_NAME_BIN in present else OPTIMIZER_NAME, SCHEDULER_NAME}
    schedule = set() if identity["zero_schedules"] else {SCHEDULER_NAME}
    # DeepSpeed (0.19) writes last which folder is whole.
    if LATEST not in present:
        return schedule | {LATEST}
    place = (folder / LATEST).read_text(errors="replace").strip()
    # From stage 1 on, each process has a part of the optimizer's state.
    prefix = "bf16_" if identity["zero_precision"] == "bf16" else ""
    ranks = range(identity["world_size"] if stage else 0)
    parts = {f"{place}/{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in ranks}
    return schedule | parts | {f"{place}/mp_rank_00_model_states.pt"}


@contextmanager
def writing(folder: str) -> Iterator[None]:
    """Inside the block a checkpoint is written. What the folder held before is kept until its end, if it was whole.

    Raises:
        OSError: It cannot be written, for example because the disk is full. What was written of it is removed.
    """
    before = Path(f"{folder}.old")
    shutil.rmtree(before, ignore_errors=True)
    if Path(folder).is_dir() and find_damage(Path(folder)) is None:
        os.rename(folder, before)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except Exception as error:
        if find_damage(Path(folder)) is None:
            raise  # The last file is written; what failed is the push.
        shutil.rmtree(folder, ignore_errors=True)
        if before.is_dir():
            os.rename(before, folder)
        if not _is_of_disk(error):
            raise
        parent = Path(folder).parent
        free = shutil.disk_usage(parent).free if parent.is_dir() else 0
        raise OSError(
            f"cannot write the checkpoint {folder} ({error}); {free / 1e9:.1f} GB are free there. Make room (or set "
            "save_total_limit) and start again with resume_from_checkpoint=True: the run goes on from its last whole "
            "checkpoint"
        ) from error
    shutil.rmtree(before, ignore_errors=True)


def _is_of_disk(error: Exception) -> bool:
    # torch's writer has no error type of its own.
    torchs = isinstance(error, RuntimeError) and any(word in str(error) for word in TORCH_WRITER)
    return torchs or isinstance(error, (OSError, SafetensorError))


def make_durable(folder: str) -> None:
    """Have the system write the folder's files to the disk: a machine that dies may lose what it has not."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reload_model(model: nn.Module, folder: str) -> bool:
    """Load a checkpoint's weights into a transformers model; False for any other model, which is left as it is.

    Trainer loads raw names and ignores what does not match, and several vision models save other names than they have
    in memory (transformers issues 48805, 43701): their encoders would silently not be restored. Here names that the
    model has are taken as they are (a head may have been replaced after loading), the others through
    `from_pretrained`.

    Raises:
        ValueError: The checkpoint lacks weights of the model, or has them in another shape.
    """
    if not isinstance(model, PreTrainedModel):
        return False
    own = model.state_dict()
    found = {name: tensor for name, tensor in _tensors(Path(folder)).items() if name in own}
    if found.keys() < own.keys():
        loaded: Any = type(model).from_pretrained(
            folder, config=model.config, ignore_mismatched_sizes=True, output_loading_info=True
        )
        renamed, info = loaded
        lacking = set(map(str, info["missing_keys"])) | {str(key[0]) for key in info["mismatched_keys"]}
        found = {name: tensor for name, tensor in renamed.state_dict().items() if name not in lacking} | found
    wrong = [name for name, tensor in own.items() if name not in found or found[name].shape != tensor.shape]
    if wrong:
        raise ValueError(f"{folder} lacks weights of {type(model).__name__}: {', '.join(wrong[:5])}")
    load_whole_state(model, {name: found[name] for name in own})
    return True


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All weights in a checkpoint, by the names in its files."""
    files = _shards(folder) or {SAFE_WEIGHTS_NAME}
    return {
        name: tensor
        for file in sorted(files)
        if (folder / file).is_file()
        for name, tensor in load_file(folder / file).items()
    }
