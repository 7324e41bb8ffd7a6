"""A card that somebody may have written in: its sections of ours are renewed, everything else stays."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import yaml_dump

# A section between its marks, of which nothing is shown. A mark is a line of its own: no name of data can forge one.
SECTION = re.compile(r"^<!-- vecaf_hf:(\w+) -->\r?$.*?^<!-- /vecaf_hf:\1 -->(?=\r?$)", re.MULTILINE | re.DOTALL)
# Metadata of several entries, which are brought together.
LISTS = ("tags", "datasets", "metrics")
RESULTS = "model-index"
# The repository in the lines of code that load the model.
REPOSITORY = re.compile(r'((?:from_pretrained\((?:model, )?|model=|hf_hub_download\()")[^"\n]*')


def amended(card: str, fresh: str, given: Collection[str] = ()) -> str:
    """A card with its sections and metadata renewed from a fresh one.

    Sections of ours stand where they stood; those that somebody has removed stay away, and a card that has none yet
    gets all of them at its end. In the metadata, lists are brought together and the results on the fresh card's
    datasets take the place of the earlier ones, which were of other weights; of what else the card says nothing is
    changed but the keys in `given`.

    Raises:
        ValueError: The card's metadata is no YAML, or no mapping.
    """
    card = card.removeprefix("\ufeff")
    newline = "\r\n" if "\r\n" in card else "\n"
    header, text = _parted(card)
    fresh_header, fresh_text = _parted(fresh)
    sections = {found[1]: found[0] for found in SECTION.finditer(fresh_text)}
    if SECTION.search(text):
        text = SECTION.sub(lambda found: _with(newline, sections.get(found[1], found[0])), text)
    else:
        text += _gap(text, newline) + _with(newline, "\n\n".join(sections.values()) + "\n")
    theirs, ours = _read(header), _read(fresh_header)
    metadata = _merged(theirs, ours, given)
    if metadata != theirs or not header:
        header = f"---{newline}{yaml_dump(metadata, sort_keys=False, line_break=newline)}---{newline}"
    return header + text


def merged(there: str, here: str, given: Collection[str] = ()) -> str:
    """The Hub's card renewed from a run's; with the text of the run's where that has been written in, and the Hub's has
    not.

    Raises:
        ValueError: A card's metadata is no YAML, or no mapping.
    """
    card = amended(there, here, given)
    return card if has_own_text(there) or not has_own_text(here) else _parted(card)[0] + _parted(here)[1]


def left_out(there: str, here: str, given: Collection[str] = ()) -> list[str]:
    """What `merged` leaves out of what the run's card says: metadata of another value, and text; ready to be told."""
    theirs, ours = _read(_parted(there)[0]), _read(_parted(here)[0])
    kept = [key for key in ours if key in theirs and key not in (*LISTS, RESULTS, *given)]
    found = [f"{key} {ours[key]!r} (there: {theirs[key]!r})" for key in kept if ours[key] != theirs[key]]
    own = [_own_text(card) for card in (there, here)]
    return [*found, "the text beside its sections"] if all(own) and own[0] != own[1] else found


def with_repository(card: str, repo_id: str) -> str:
    """The card with this repository in the code that loads the model."""

    def renamed(section: re.Match[str]) -> str:
        return REPOSITORY.sub(rf"\g<1>{repo_id}", section[0]) if section[1] == "load" else section[0]

    return SECTION.sub(renamed, card)


def has_own_text(card: str) -> bool:
    """Whether a card says more than its sections of ours and one heading."""
    return bool(_own_text(card))


def _own_text(card: str) -> list[str]:
    """Lines of a card beside its sections of ours and one heading."""
    rest = SECTION.sub("", _parted(card)[1])
    return [line.strip() for line in rest.splitlines() if line.strip()][1:]


def _gap(text: str, newline: str) -> str:
    if not text.strip():
        return newline
    return newline if text.endswith("\n") else 2 * newline


def _with(newline: str, text: str) -> str:
    return text.replace("\n", newline)


def _parted(card: str) -> tuple[str, str]:
    """A card's metadata with its rules, and all that follows."""
    block = REGEX_YAML_BLOCK.search(card)
    return (card[: block.end()], card[block.end() :]) if block else ("", card)


def _read(header: str) -> dict[str, Any]:
    block = REGEX_YAML_BLOCK.search(header)
    try:
        metadata = (yaml.safe_load(block[2]) if block else None) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"the card's metadata is no YAML ({' '.join(str(error).split())}): mend README.md") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"the card's metadata is a {type(metadata).__name__}, not a mapping: mend README.md")
    return metadata


def _merged(theirs: Mapping[str, Any], ours: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    merged = dict(theirs)
    for key, value in ours.items():
        if key in LISTS:
            merged[key] = list(dict.fromkeys([*_listed(merged.get(key)), *_listed(value)]))
        elif key == RESULTS:
            merged[key] = _with_results(merged.get(key), value)
        elif key in given:
            merged[key] = value
        else:
            merged.setdefault(key, value)
    return merged


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _with_results(theirs: Any, ours: Any) -> Any:
    """The run's results, and theirs on other datasets."""
    name, results = model_index_to_eval_results(ours)
    try:
        name, known = model_index_to_eval_results(theirs) if theirs else (name, [])
    except (KeyError, TypeError):
        return ours  # The Hub would refuse theirs.
    measured = {result.dataset_name for result in results}
    others = [result for result in known if result.dataset_name not in measured]
    return eval_results_to_model_index(name, [*others, *results])
