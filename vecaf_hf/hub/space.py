"""A run's page as a static Space of the Hub, for whoever has nothing installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, HfApi

from vecaf_hf.hub.push import card_on_hub, explained, patiently
from vecaf_hf.reporting.amending import with_page
from vecaf_hf.reporting.card import CARD, read_card, save_card

PAGE = "index.html"


def push_space(files: Mapping[str, Path], space: str, title: str, model: str | None, private: bool) -> str:
    """Push a page in one commit to a Space, which is made if there is none of that name.

    Args:
        files: Place in the Space -> file; PAGE among them.
        space: Its name, with or without its owner.
        title: What the Hub calls it.
        model: The repository of the run's model, under which the Hub then shows the Space; None where it has none.
        private: Whether a Space that is made for it is private.

    Returns:
        Its address.

    Raises:
        PushError: It did not arrive.
    """
    operations = [CommitOperationAdd(place, path.read_bytes()) for place, path in files.items()]
    header: dict[str, Any] = {"title": title, "sdk": "static", "app_file": PAGE}
    if model and "/" in model:
        header["models"] = [model]
    card = f"---\n{yaml.safe_dump(header, allow_unicode=True)}---\n"
    operations.append(CommitOperationAdd(CARD, card.encode()))
    with explained(space):
        api = HfApi(library_name="vecaf_hf")
        made = patiently(
            lambda: api.create_repo(space, repo_type="space", space_sdk="static", private=private, exist_ok=True)
        )
        patiently(
            lambda: api.create_commit(made.repo_id, operations, commit_message="The page of a run", repo_type="space")
        )
    return f"{api.endpoint}/spaces/{made.repo_id}"


def link_from_card(folder: Path, model: str, revision: str | None, address: str) -> bool:
    """Name a run's page in its card: in the run's folder, and on the Hub if its model is there, which is returned.

    Args:
        folder: The run's.
        model: Its repository, with or without its owner.
        revision: Of that; `main` if None.
        address: The page's.

    Raises:
        PushError: The card on the Hub could not be renewed.
    """
    if (here := read_card(folder)) is not None:
        save_card(folder, with_page(here, address))
    with explained(model):
        api = HfApi(library_name="vecaf_hf")
        repo = model if "/" in model else f"{api.whoami()['name']}/{model}"
        there = card_on_hub(api, repo, revision)
        if there is None:
            return False
        linked = with_page(there, address)
        if linked != there:
            addition = CommitOperationAdd(CARD, linked.encode("utf-8", "surrogateescape"))
            patiently(lambda: api.create_commit(repo, [addition], commit_message="The run's page", revision=revision))
    return True
