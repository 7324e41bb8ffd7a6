"""Captions of the pool's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vecaf_hf.data.columns import has_columns, read_column
from vecaf_hf.data.labels import IGNORED
from vecaf_hf.seeding import seed_of
from vecaf_hf.text.domains import Domains
from vecaf_hf.text.encoder import TextEncoder

LABEL_FIELD = "{label}"
TEMPLATE = "a photo of a {label}"
# Of a sample: none, one, or several.
Caption = str | tuple[str, ...] | None
# In place of captions: by a captioner, or else TEMPLATE.
AUTO = "auto"
# The column that captions are in unless something else says where.
COLUMN = "caption"


def find_captions(
    captions: str | Sequence[Caption], dataset: Any, labels: Tensor | None, class_names: Sequence[str]
) -> list[Caption]:
    """Each sample's caption, or a tuple of several; None where it has none (missing, NaN, empty or blank).

    Args:
        captions: A column of the dataset, a list aligned with it, a template with `{label}`, or AUTO for TEMPLATE. In
            column and list a sample may have a list of captions.
        dataset: The pool.
        labels: Class of each sample, for a template. LongTensor [N].
        class_names: Name of each class, for a template.

    Raises:
        ValueError: There is no such column, the list has another length, a caption is no text, no sample has one, or
            a template is used on a pool whose labels cannot be read or have no name.
    """
    found: list[Any]
    if not isinstance(captions, str):
        found = list(captions)
        if len(found) != len(dataset):
            raise ValueError(f"captions has {len(found)} entries for a training dataset of {len(dataset)} samples")
    elif captions == AUTO:
        found = _from_class_names(labels, class_names)
    elif LABEL_FIELD in captions:
        found = _from_template(captions, labels, class_names)
    elif has_columns(dataset):
        if captions not in dataset.column_names and "{" in captions:
            raise ValueError(f"captions={captions!r} is no column, and a template over class names has {LABEL_FIELD}")
        found = read_column(dataset, captions)
    else:
        raise ValueError(
            f"captions={captions!r} names a column, and the training dataset is a {type(dataset).__name__} without "
            'columns: pass a list of captions, or a template such as "a photo of a {label}"'
        )
    found = [_tidied(caption, index) for index, caption in enumerate(found)]
    if not any(found):
        raise ValueError(
            f"no sample of the training dataset has a caption: all {len(found)} are missing, empty or blank. Give "
            "captions, or a template over class names, or leave CEA out"
        )
    return found


def _tidied(caption: Any, index: int) -> Caption:
    """Without what is blank or missing; several only if they are."""
    several = caption if isinstance(caption, (list, tuple, np.ndarray)) else [caption]
    texts = []
    for text in several:
        # NaN, as pandas has it, is what differs from itself.
        if text is None or (isinstance(text, float) and text != text):
            continue
        if not isinstance(text, str):
            raise ValueError(f"the caption of sample {index} is a {type(text).__name__}, not text: {text!r:.80}")
        if text.strip():
            texts.append(text)
    return tuple(texts) if len(texts) > 1 else texts[0] if texts else None


def texts_of(
    given: str | Sequence[Caption] | None, dataset: Any, labels: Tensor | None, class_names: Sequence[str]
) -> list[str | None] | None:
    """Each sample's captions as one text, or None if nothing says where captions are.

    Args:
        given: As `find_captions` takes them; None for the column `caption`, if there is one.
        dataset, labels, class_names: Likewise.
    """
    if given is None and has_columns(dataset) and COLUMN in dataset.column_names:
        given = COLUMN
    if given is None:
        return None
    found = find_captions(given, dataset, labels, class_names)
    return [" / ".join(one) if isinstance(one, tuple) else one for one in found]


def drawn(captions: Sequence[Caption], loops: int, seed: int) -> list[list[str | None]]:
    """One caption of each sample for each loop, by seed and loop; for one loop alone, if no sample has several."""
    counts = [len(caption) if isinstance(caption, tuple) else 1 for caption in captions]
    turns = []
    for loop in range(loops if max(counts, default=1) > 1 else 1):
        parts = torch.rand(len(captions), generator=torch.Generator().manual_seed(seed_of(seed, loop)))
        places = (parts.double() * torch.tensor(counts)).long().tolist()
        chosen = zip(captions, places, strict=True)
        turns.append([caption[place] if isinstance(caption, tuple) else caption for caption, place in chosen])
    return turns


def _from_class_names(labels: Tensor | None, class_names: Sequence[str]) -> list[str | None]:
    try:
        return _from_template(TEMPLATE, labels, class_names)
    except ValueError as error:
        raise ValueError(
            f"captions={AUTO!r} goes by the names of classes unless there is a captioner, and {error}. Or give a "
            'captioner, such as captioner="Salesforce/blip-image-captioning-base", or a column of captions'
        ) from error


def _from_template(template: str, labels: Tensor | None, class_names: Sequence[str]) -> list[str | None]:
    if labels is None:
        raise ValueError(
            f"the caption template {template!r} needs one class per sample, and the training dataset has no label "
            "column to read: name it with label_column, or pass a list of captions"
        )
    if class_names and all(name == f"LABEL_{index}" for index, name in enumerate(class_names)):
        raise ValueError(
            f"the caption template {template!r} needs names of classes, and the model's config has only "
            f"{class_names[0]} and so on: give it an id2label, or pass captions"
        )
    unnamed = (((labels < 0) | (labels >= len(class_names))) & (labels != IGNORED)).nonzero().squeeze(1)
    if len(unnamed):
        index = int(unnamed[0])
        raise ValueError(
            f"label {int(labels[index])} of sample {index} has no name: there are {len(class_names)} class names. Mend "
            "the label, or give the model's config an id2label of all classes"
        )
    by_class = [template.replace(LABEL_FIELD, name) for name in class_names]
    return [None if label == IGNORED else by_class[label] for label in labels.tolist()]


@dataclass(frozen=True)
class CaptionTable:
    """Text embeddings of the pool's captions, each distinct caption once.

    Args:
        rows: Row of each sample's caption, -1 for none; of several the first loop's. LongTensor [N].
        plain: Embeddings of the captions, unit rows: encoders differ in scale by orders of magnitude. [U, d_t].
        prompted: Embeddings of captions with a domain prompt, of the pairs that occur; the plain ones without prompts.
            [V, d_t].
        prompted_rows: Row of each sample's prompted caption, -1 for none, in a first loop and those after it until the
            prompts come round again. LongTensor [P, N].
        plain_rows: Row of each sample's caption in each loop, where samples have several; None where it is always
            `rows`. LongTensor [L, N].
    """

    rows: Tensor
    plain: Tensor
    prompted: Tensor
    prompted_rows: Tensor
    plain_rows: Tensor | None = None

    @classmethod
    def empty(cls, size: int, dimension: int) -> CaptionTable:
        """That of N samples none of which has a caption yet, for texts of d_t."""
        nothing, rows = torch.empty(0, dimension), torch.full((size,), -1)
        return cls(rows, nothing, nothing, rows[None])

    @property
    def missing(self) -> int:
        return int((self.rows < 0).sum())

    def captioned(self, indices: Tensor) -> Tensor:
        """Whether each sample has a caption. [n] -> bool [n]."""
        return self.rows[indices] >= 0

    def texts(self, prompted: bool, loop: int) -> tuple[Tensor, Tensor]:
        """The distinct text embeddings, and the row of each sample's one in this loop. [U, d_t], LongTensor [N]."""
        if prompted:
            return self.prompted, self.prompted_rows[loop % len(self.prompted_rows)]
        return self.plain, self.rows if self.plain_rows is None else self.plain_rows[loop % len(self.plain_rows)]

    def of(self, indices: Tensor, prompted: bool, loop: int = 0) -> Tensor:
        """Text embeddings of samples; any row for one without a caption. [n] -> [n, d_t]."""
        texts, rows = self.texts(prompted, loop)
        return texts[rows[indices]]


def caption_table(
    captions: Sequence[Caption], domains: Domains | None, encoder: TextEncoder, loops: int = 1, seed: int = 0
) -> CaptionTable:
    """Embed the captions, and each with those domain prompts behind it that its samples go by.

    Args:
        captions: Of N samples.
        domains: Of the same samples; None where no prompted caption is needed.
        encoder: Embeds them.
        loops: Of the run; in each another one of a sample's several captions is drawn, by the seed.
        seed: Of that.

    Raises:
        ValueError: No sample has a caption, or an embedding is not finite.
    """
    distinct = {text: row for row, text in enumerate(dict.fromkeys(text for each in captions for text in _texts(each)))}
    if not distinct:
        raise ValueError("no sample of the training dataset has a caption")
    texts = list(distinct)
    plain = normalize(encoder.encode(texts), dim=-1)
    bad = ~plain.isfinite().all(dim=1)
    if bad.any():
        raise ValueError(
            f"the text encoder's embedding of {texts[int(bad.int().argmax())]!r:.80} is not finite "
            f"({int(bad.sum())} of {len(texts)} distinct captions): its weights are damaged, or overflow"
        )
    turns = drawn(captions, loops, seed)
    by_loop = torch.tensor([[-1 if text is None else distinct[text] for text in turn] for turn in turns])
    rows, plain_rows = by_loop[0], by_loop if len(by_loop) > 1 else None
    if domains is None:
        return CaptionTable(rows, plain, plain, rows[None], plain_rows)
    captioned = rows >= 0
    if plain_rows is not None:
        domains = replace(domains, turns=torch.stack([domains.in_loop(loop) for loop in range(loops)]))
    pairs = domains.turns[:, captioned] * len(texts) + by_loop[:, captioned]
    pairs, occurring = pairs.unique(return_inverse=True)
    sentences = [with_prompt(texts[pair % len(texts)], domains.prompts[pair // len(texts)]) for pair in pairs.tolist()]
    prompted_rows = torch.full_like(domains.turns, -1)
    prompted_rows[:, captioned] = occurring
    return CaptionTable(rows, plain, normalize(encoder.encode(sentences), dim=-1), prompted_rows, plain_rows)


def _texts(caption: Caption) -> Sequence[str]:
    return [] if caption is None else [caption] if isinstance(caption, str) else caption


def with_captions(
    table: CaptionTable, indices: Tensor, captions: Sequence[str | None], domains: Domains | None, encoder: TextEncoder
) -> CaptionTable:
    """The table with captions of samples that had none. LongTensor [n].

    Args:
        table: Of the pool.
        indices: Samples of the pool.
        captions: Of these samples.
        domains: Of the pool; None where no prompted caption is needed.
        encoder: Embeds them.

    Raises:
        ValueError: An embedding is not finite.
    """
    if not any(captions):
        return table
    added = caption_table(captions, domains and domains.of(indices), encoder)
    plain = torch.cat([table.plain, added.plain])
    rows = table.rows.clone()
    rows[indices] = torch.where(added.rows < 0, -1, added.rows + len(table.plain))
    if domains is None:
        return CaptionTable(rows, plain, plain, rows[None])
    prompted_rows = table.prompted_rows.expand_as(domains.turns).clone()
    prompted_rows[:, indices] = torch.where(added.prompted_rows < 0, -1, added.prompted_rows + len(table.prompted))
    return CaptionTable(rows, plain, torch.cat([table.prompted, added.prompted]), prompted_rows)


def with_prompt(caption: str, prompt: str) -> str:
    """The caption as a sentence, followed by the prompt (Section 3.3)."""
    caption = caption.strip()
    end = "" if caption[-1] in ".!?" else "."
    return f"{caption}{end} {prompt.strip()}"
