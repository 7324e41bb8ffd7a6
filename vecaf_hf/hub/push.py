"""Pushing a run to the Hub, and what to say when it does not arrive."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff
from transformers.trainer_utils import HubStrategy

from vecaf_hf.hub.files import addition, run_files, saved_arguments
from vecaf_hf.printable import printable
from vecaf_hf.reporting.amending import decided, merged, with_repository
from vecaf_hf.reporting.card import CARD, read_card

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)

# Seconds before the tries after an answer that may change and does not say how long to wait, where huggingface_hub
# itself does not try again: it does for uploads, not when it creates a repository or commits.
WAITS = (2, 8, 30)
# What httpx raises where no answer comes, of whichever httpx this huggingface_hub stands on.
CONNECTION_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
# Longer than this, a run does not wait for its push.
LONGEST_WAIT = 300
REASONS = {
    400: "the Hub refuses what is pushed (400)",
    401: "the Hub does not accept the token (401), or there is none: log in with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there (403): make one with write access at hf.co/settings/tokens, or name a "
    "repository of your own",
    404: "there is no such repository or revision (404): check hub_model_id and hub_revision",
    409: "the Hub reports a conflict (409): something else was pushing there, so wait a little",
    429: "the Hub has had too many requests of yours (429): wait a while",
}
# What another try does not mend.
PERMANENT = (401, 403, 404)


class PushError(OSError):
    """A push has failed; nothing on this machine is lost.

    Attributes:
        kind: The HTTP status, or the name of the error.
        permanent: Whether it takes another token or name to mend it.
    """

    def __init__(self, message: str, kind: str, permanent: bool) -> None:
        super().__init__(message)
        self.kind, self.permanent = kind, permanent


def push_run(
    folder: str | Path,
    repo_id: str | None = None,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "End of training",
    given: Collection[str] = (),
) -> CommitInfo:
    """Push a finished run from its folder: model, card, pictures, arguments and metrics, in one commit.

    What is not given is as the run's arguments have it. Checkpoints go along where `hub_strategy` asks for them.

    Args:
        folder: The run's `output_dir`, or one of its checkpoints.
        repo_id: By default `hub_model_id`, or the folder's name.
        token: By default the one that is logged in with, or HF_TOKEN.
        private: Whether a repository that is made for it is private.
        revision: A branch that exists.
        given: Metadata of the run's card that wins over what the card on the Hub says, such as `license`.

    Raises:
        ValueError: The folder holds no model.
        PushError: It did not arrive. The message says why, and how to push again.
    """
    folder = Path(folder)
    saved = saved_arguments(folder)
    files = run_files(folder, HubStrategy(saved.get("hub_strategy", HubStrategy.END)))
    folders = {str(folder), str(folder.absolute()), saved.get("output_dir", str(folder))}
    additions = [addition(place, path, folders) for place, path in files.items() if place != CARD]
    repo = repo_id or saved.get("hub_model_id") or folder.absolute().name
    private = saved.get("hub_private_repo") if private is None else private
    try:
        return push(
            make_repository(repo, token, private),
            additions,
            read_card(folder),
            token=token,
            revision=revision or saved.get("hub_revision"),
            commit_message=commit_message,
            given=given,
        )
    except PushError as error:
        named = {"--repo_id": repo_id, "--revision": revision}
        words = [printable(folder), *(word for name, value in named.items() if value for word in (name, value))]
        command = shlex.join(["vecaf-hf", "push", *map(printable, words), *(["--private"] if private else [])])
        again = f"{error}. All of the run is in {printable(folder)}; push it again with `{command}`"
        raise PushError(again, error.kind, error.permanent) from error.__cause__


def make_repository(repo: str, token: str | None, private: bool | None, waits: Sequence[int] = WAITS) -> str:
    """The full id of a repository, which is made if it does not exist yet; `waits` before each further try, seconds.

    Raises:
        PushError: It cannot be.
    """
    with explained(repo):
        api = HfApi(token=token, library_name="vecaf_hf")
        return patiently(lambda: api.create_repo(repo, private=private, exist_ok=True), waits).repo_id


def push(
    repo_id: str,
    additions: Sequence[CommitOperationAdd],
    card: str | None,
    *,
    token: str | None,
    revision: str | None,
    commit_message: str,
    given: Collection[str] = (),
) -> CommitInfo:
    """Commit files and card. A card that is there is amended; where the two contradict each other, the log tells once
    what was decided.

    Raises:
        PushError: They did not arrive.
    """
    with explained(repo_id):
        api = HfApi(token=token, library_name="vecaf_hf")
        operations = list(additions)
        told: list[str] = []
        if card is not None:
            there = card_on_hub(api, repo_id, revision)
            if there is not None:
                told, card = _with_theirs(there, card, given)
            card = with_repository(card, repo_id)
            operations.append(CommitOperationAdd(CARD, card.encode("utf-8", "surrogateescape")))
        commit = patiently(
            lambda: api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
        )
    for decision in told:
        _tell(repo_id, decision)
    return commit


def _with_theirs(there: str, card: str, given: Collection[str]) -> tuple[list[str], str]:
    try:
        return decided(there, card, given), merged(there, card, given)
    except ValueError as error:
        raise ValueError(f"the card on the Hub or the run's: {error}") from error


@cache
def _tell(repo_id: str, decision: str) -> None:
    """Once in a process: a run may push with every save."""
    logger.warning("the card of %s on the Hub: %s", printable(repo_id), printable(decision, 500))


def card_on_hub(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """The text of a repository's card, if it is there and has one."""
    url = f"{api.endpoint}/{repo_id}/resolve/{quote(revision or 'main', safe='')}/{CARD}"
    response = http_backoff("GET", url, headers=build_hf_headers(token=api.token))
    if response.status_code == 404:
        return None
    hf_raise_for_status(response)
    return response.content.decode("utf-8", "surrogateescape")


def patiently(ask: Callable[[], Answer], waits: Sequence[int] = WAITS) -> Answer:
    """The Hub's answer; if it is too busy, fails or cannot be reached, asked again when it says, or after a while."""
    for wait in waits:
        try:
            return ask()
        except HfHubHTTPError as error:
            asked = error.response.headers.get("Retry-After", "")
            seconds = int(asked) if asked.isdecimal() else wait
            status = error.response.status_code
            if (status != 429 and status < 500) or seconds > LONGEST_WAIT:
                raise
            time.sleep(seconds)
        except CONNECTION_ERROR:
            time.sleep(wait)
    return ask()


@contextmanager
def explained(repo: str) -> Iterator[None]:
    """Whatever goes wrong inside the block becomes a PushError in one sentence."""
    try:
        yield
    except Exception as error:
        root = _root(error)
        status = getattr(getattr(root, "response", None), "status_code", None)
        permanent = status in PERMANENT or isinstance(root, HFValidationError)
        kind = str(status or type(root).__name__)
        raise PushError(f"cannot push to {printable(repo)}: {_reason(root, status)}", kind, permanent) from error


def _root(error: BaseException) -> BaseException:
    """What the Hub answered, under what threads of an upload have made of it."""
    while error.__cause__ is not None and not hasattr(error, "response"):
        error = error.__cause__
    return error


def _reason(error: BaseException, status: int | None) -> str:
    said = getattr(error, "server_message", None) or ""
    said = f" ({printable(' '.join(said.split()), 200)})" if said else ""
    if status is not None:
        return REASONS.get(status, f"the Hub has failed ({status}): try again later") + said
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: unset it where there is a network"
    if isinstance(error, json.JSONDecodeError):
        return "what answered was not the Hub, or it has failed: check HF_ENDPOINT and proxies, or try again later"
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (ValueError, RuntimeError)):
        return printable(words, 500)
    return f"the connection failed ({printable(words, 200)}): check the network, or try again later"
