"""A card that somebody may have written in: its sections of ours are renewed, everything else stays."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import yaml_dump

from vecaf_hf.printable import listed

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
    gets all of them at its end. In the metadata, lists are brought together and results are renewed; where one has
    another value now, the weights are others, and what else was measured of the earlier ones goes. Of what else the
    card says nothing is changed but the keys in `given`.

    Raises:
        ValueError: The card's metadata is no YAML, or no mapping.
    """
    card = card.removeprefix("\ufeff")
    newline = "\r\n" if "\r\n" in card else "\n"
    header, text = _parted(card)
    fresh_header, fresh_text = _parted(fresh)
    sections = {found[1]: found[0] for found in SECTION.finditer(fresh_text)}
    # The link to the run's page is no sign that somebody has removed the others.
    if any(found[1] in sections for found in SECTION.finditer(text)):
        text = SECTION.sub(lambda found: _with(newline, sections.get(found[1], found[0])), text)
    else:
        text += _gap(text, newline) + _with(newline, "\n\n".join(sections.values()) + "\n")
    theirs, ours = _read(header), _read(fresh_header)
    metadata = _merged(theirs, ours, given)
    if metadata != theirs or not header:
        header = f"---{newline}{yaml_dump(metadata, sort_keys=False, line_break=newline)}---{newline}"
    return header + text


def merged(there: str, here: str, given: Collection[str] = ()) -> str:
    """The Hub's card renewed from a run's; with the text of the run's where somebody has written in that.

    Raises:
        ValueError: A card's metadata is no YAML, or no mapping.
    """
    card = amended(there, here, given)
    return _parted(card)[0] + _parted(here)[1] if has_own_text(here) else card


def decided(there: str, here: str, given: Collection[str] = ()) -> list[str]:
    """What `merged` decides where the Hub's card and the run's contradict each other, ready to be told."""
    theirs, ours = _read(_parted(there)[0]), _read(_parted(here)[0])
    kept = [key for key in ours if key in theirs and key not in (*LISTS, RESULTS, *given)]
    found = [f"{key} stays {theirs[key]!r} (the run's: {ours[key]!r})" for key in kept if ours[key] != theirs[key]]
    if dropped := _dropped(theirs.get(RESULTS), ours.get(RESULTS)):
        found.append(f"results of earlier weights are gone: {listed(dropped, 5)}")
    if _own_text(here) and _own_text(there) not in ([], _own_text(here)):
        found.append("its text is the run's now, and the former one in the repository's history")
    return found


def with_repository(card: str, repo_id: str) -> str:
    """The card with this repository in the code that loads the model."""

    def renamed(section: re.Match[str]) -> str:
        return REPOSITORY.sub(rf"\g<1>{repo_id}", section[0]) if section[1] == "load" else section[0]

    return SECTION.sub(renamed, card)


def with_page(card: str, address: str) -> str:
    """The card with a link to the run's page, after its first section of ours; at its end where it has none."""
    newline = "\r\n" if "\r\n" in card else "\n"
    words = f"[The run's page]({address}): what was selected, what it cost, where the model fails."
    link = _with(newline, f"<!-- vecaf_hf:page -->\n\n{words}\n\n<!-- /vecaf_hf:page -->")
    sections = list(SECTION.finditer(card))
    if old := next((one for one in sections if one[1] == "page"), None):
        return card[: old.start()] + link + card[old.end() :]
    if not sections:
        return card + _gap(card, newline) + link + newline
    end = sections[0].end()
    return card[:end] + 2 * newline + link + card[end:]


def has_own_text(card: str) -> bool:
    """Whether a card says more than its sections of ours and one heading."""
    return bool(_own_text(card))


def _own_text(card: str) -> list[str]:
    """Lines of a card beside its sections of ours and one heading."""
    lines = [line.strip() for line in SECTION.sub("", _parted(card)[1]).splitlines() if line.strip()]
    return lines[1:] if lines and lines[0].startswith("# ") else lines


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
            merged[key] = _with_results(merged.get(key), value, renamed="model_name" in given)
        elif key in given:
            merged[key] = value
        else:
            merged.setdefault(key, value)
    return merged


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _with_results(theirs: Any, ours: Any, renamed: bool) -> Any:
    """The run's results, and theirs that may still be of these weights; under their name, or the run's if renamed."""
    name, results = model_index_to_eval_results(ours)
    their_name, known = _results(theirs)
    kept = [] if _of_other_weights(known, results) else _others(known, results)
    return eval_results_to_model_index(name if renamed else their_name or name, [*kept, *results])


def _dropped(theirs: Any, ours: Any) -> list[str]:
    """Their results that do not stay beside the run's."""
    results, known = _results(ours)[1], _results(theirs)[1]
    gone = _others(known, results) if _of_other_weights(known, results) else []
    return [f"{one.metric_type} on {one.dataset_name}" for one in gone]


def _results(index: Any) -> tuple[str | None, list[EvalResult]]:
    try:
        return model_index_to_eval_results(index) if index else (None, [])
    except (KeyError, TypeError):
        return None, []  # The Hub would refuse them.


def _others(known: list[EvalResult], results: list[EvalResult]) -> list[EvalResult]:
    return [one for one in known if not any(one.is_equal_except_value(new) for new in results)]


def _of_other_weights(known: list[EvalResult], results: list[EvalResult]) -> bool:
    """Whether something that was measured then has another value now."""
    pairs = ((old, new) for old in known for new in results if old.is_equal_except_value(new))
    return any(old.metric_value != new.metric_value for old, new in pairs)
