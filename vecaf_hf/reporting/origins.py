"""Where a run's weights and data come from, as far as it can be told without a network and may be told to others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml
from huggingface_hub import metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from vecaf_hf.printable import printable
from vecaf_hf.reporting.local_paths import is_local_path

COMMIT = re.compile(r"[0-9a-f]{40}")
# What `datasets` puts between an owner and a name in the folders of its cache.
OWNER_MARK = "___"


@dataclass(frozen=True)
class Origin:
    """Something that the model is made from.

    Args:
        hub_id: None for what lies in a local folder or came from a package: such names say nothing to others.
        name: What to call it in a text.
        kind: Its kind where it has no id, such as `imagefolder`.
        license: As its card has it, where that is known.
        config: A dataset's configuration on the Hub.
        revision: A dataset's commit on the Hub.
    """

    hub_id: str | None
    name: str
    kind: str = "local"
    license: str | None = None
    config: str | None = None
    revision: str | None = None


def hub_id(name: Any) -> str | None:
    """The name, if it can be an id on the Hub; None for a path, or whatever lies on this machine."""
    if not isinstance(name, str) or not name or is_local_path(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def model_origin(model: Any, named: str | None) -> Origin:
    """The model that was finetuned, by the given id or that of its config."""
    loaded_from = getattr(getattr(model, "config", None), "_name_or_path", "")
    found = hub_id(named) or hub_id(loaded_from)
    own = printable(named) if named and not is_local_path(named) else None
    name = own or found or "a model that is not on the Hub"
    return Origin(found, name, license=_license(found, loaded_from, "model"))


def dataset_origin(dataset: Any, tag: str | None, name: str | None) -> Origin:
    """The data that was trained on.

    Args:
        dataset: A `datasets.Dataset` knows where it was loaded from, any other does not.
        tag: Its id on the Hub, if given.
        name: What to call it, if given.
    """
    info = dataset.info if isinstance(dataset, datasets.Dataset) else datasets.DatasetInfo()
    loaded, revision = _loaded_from(dataset, info)
    found = hub_id(tag) or loaded
    return Origin(
        hub_id=found,
        name=printable(name or found or "local data"),
        kind=info.builder_name or "local",
        license=info.license or _license(found, "", "dataset"),
        config=info.config_name if found and found == loaded else None,
        revision=revision if found == loaded else None,
    )


def _loaded_from(dataset: Any, info: datasets.DatasetInfo) -> tuple[str | None, str | None]:
    """Id and commit of a dataset from the Hub: it lies in `datasets`' cache as OWNER___NAME/CONFIG/VERSION/COMMIT."""
    files = dataset.cache_files if isinstance(dataset, datasets.Dataset) else []
    folders = list(Path(files[0]["filename"]).parents) if files else []
    if len(folders) < 4:
        return None, None
    owner, mark, name = folders[3].name.partition(OWNER_MARK)
    if not mark or name != info.dataset_name:
        return None, None
    commit = folders[0].name
    return f"{owner}/{name}", commit if COMMIT.fullmatch(commit) else None


def _license(found: str | None, folder: str, kind: str) -> str | None:
    """As the card says that lies in the folder, or in the Hub's cache; the Hub itself is not asked."""
    cached = try_to_load_from_cache(found, "README.md", repo_type=kind) if found else None
    card = Path(cached) if isinstance(cached, str) else Path(folder, "README.md")
    if not (folder or cached) or not card.is_file():
        return None
    try:
        license = (metadata_load(card) or {}).get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return license if isinstance(license, str) else None
