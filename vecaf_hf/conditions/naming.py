"""What sets a group apart from its classes, in words: of captions, or where these are silent of an encoder's choice.

By captions: words and short phrases whose log-odds with an informative Dirichlet prior stand out (Monroe, Colaresi and
Quinn 2008, "Fightin' Words"), each caption counting once; of these the one that most of the group's captions have and
fewest of the others. By images: given phrases, each as the direction in which it moves a text's embedding; the group's
images lie further along it than those of its classes. A name that does not stand out is none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Words of a phrase.
LONGEST = 4
# What a phrase does not begin or end with, and what a name does not end with, in English.
ARTICLES = {"a", "an", "the"}
OPEN = {"and", "of", "with"}
# Weight of the prior: as many captions of all as would say the same.
PRIOR = 50.0
# Standard errors by which a phrase's log-odds must exceed 0, and the part of the group's captions that must have it.
SIGNIFICANT, PART = 4.0, 1 / 3
# Of phrases that tell the group apart nearly alike the longest is told: "turned by a quarter", not "quarter".
NEARLY = 0.95
# Standard deviations of the classes' images by which the group's must lie further along a phrase, and how many times as
# far from the middle of all phrases as half of these are.
EFFECT, APART = 1.0, 3.0
SHOWN_CAPTIONS = 3
# Candidates where captions say nothing; a user's own are better.
PHRASES = (
    *("in snow", "in fog", "in rain", "at night", "in the dark", "against the light", "overexposed", "under water"),
    *("blurred", "out of focus", "in motion", "noisy", "pixelated", "in negative colours", "in black and white"),
    *("turned by a quarter", "upside down", "mirrored", "from above", "from behind", "very close", "far away"),
    *("partly hidden", "cropped", "with a watermark", "with text on it", "with a border", "on a screen"),
    *("as a drawing", "as a painting", "as a toy"),
)


@dataclass(frozen=True)
class Name:
    """What a group is called.

    Args:
        text: Its words; "" where no name was found.
        score: Standard errors of its log-odds, by captions; standard deviations of the classes' images, by images.
        by: `captions`, `images`, or "" where no name was found.
        captions: Some of the group's, those that have the words first.
    """

    text: str
    score: float
    by: str
    captions: tuple[str, ...]


def unnamed(captions: Sequence[str | None]) -> Name:
    """No name, and the first captions of those that there are."""
    return Name("", 0.0, "", tuple(caption for caption in captions if caption)[:SHOWN_CAPTIONS])


def name_by_captions(inside: Mapping[int, Sequence[str | None]], outside: Mapping[int, Sequence[str | None]]) -> Name:
    """The phrase that the group's captions have and those of its classes have not.

    Args:
        inside: Class -> captions of the group's samples.
        outside: Class -> captions of the class's other samples. Each class counts with its share of the group, so that
            the words of a class are no name.
    """
    captions = [caption for own in inside.values() for caption in own if caption]
    group, total = _counted(captions), len(captions)
    rests = {label: [caption for caption in outside.get(label, ()) if caption] for label in inside}
    size = sum(map(len, rests.values()))
    of_known = sum(len(own) for label, own in inside.items() if rests[label])
    others: Counter[str] = Counter()
    for label, rest in rests.items():
        for phrase, count in _counted(rest).items():
            others[phrase] += count * size * len(inside[label]) / (len(rest) * of_known)  # type: ignore[assignment]
    if not total or not size:
        return unnamed(captions)
    scores = {
        phrase: score
        for phrase, count in group.items()
        if count >= PART * total and (score := _log_odds(count, total, others[phrase], size)) >= SIGNIFICANT
    }
    if not scores:
        return unnamed(captions)
    # Not by these scores: a word that other groups have too is the surest, and no name ("day" for "on a foggy day").
    text = _told({phrase: group[phrase] / total - others[phrase] / size for phrase in scores})
    saying = sorted(captions, key=lambda caption: text not in set(_phrases(caption)))
    return Name(text, scores[text], "captions", tuple(saying[:SHOWN_CAPTIONS]))


def _told(apart: Mapping[str, float]) -> str:
    """Of phrases, by how many more of the group have them than of the others: of the best nearly alike the longest that
    begins and ends with words which stand out themselves: "in snow", not "photo in snow"."""
    ended = {phrase: more for phrase, more in apart.items() if phrase.split()[-1] not in OPEN} or apart
    near = [phrase for phrase, more in ended.items() if more >= NEARLY * max(ended.values())]
    whole = [phrase for phrase in near if {phrase.split()[0], phrase.split()[-1]} <= apart.keys()]
    return max(whole or near, key=lambda phrase: (len(phrase), phrase))


def _log_odds(count: float, total: float, other: float, size: float) -> float:
    """Difference of the phrase's log-odds in the group and outside of it, in standard errors."""
    prior = PRIOR * (count + other + 0.5) / (total + size + 1)
    rest = PRIOR - prior
    inside, outside = count + prior, other + prior
    odds = torch.tensor([inside / (total - count + rest), outside / (size - other + rest)], dtype=torch.float64).log()
    return float((odds[0] - odds[1]) / (1 / inside + 1 / outside) ** 0.5)


def _counted(captions: Sequence[str]) -> Counter[str]:
    """Captions that have each phrase."""
    return Counter(phrase for caption in captions for phrase in set(_phrases(caption)))


def says(caption: str, words: str) -> bool:
    """Whether a caption has these words, one after the other."""
    own, wanted = (f" {' '.join(_words(text))} " for text in (caption, words))
    return bool(wanted.strip()) and wanted in own


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['\u2019]\w+)?", text.casefold())


def _phrases(caption: str) -> Iterator[str]:
    words = _words(caption)
    for length in range(1, LONGEST + 1):
        for start in range(len(words) - length + 1):
            phrase = words[start : start + length]
            if phrase[0] not in ARTICLES and phrase[-1] not in ARTICLES:
                yield " ".join(phrase)


def name_by_images(inside: Tensor, outside: Tensor, plain: Tensor, said: Tensor, phrases: Sequence[str]) -> Name | None:
    """The phrase along whose direction the group's images lie furthest from those of its classes; None if none stands
    out.

    Args:
        inside: A dual encoder's embeddings of the group's images. [n, d].
        outside: Of other images of its classes, in the same shares. [m, d].
        plain: Of a text without a phrase, such as "a photo". [d].
        said: Of the text with each phrase. [P, d].
        phrases: P of them.
    """
    directions = normalize(normalize(said, dim=-1) - normalize(plain, dim=-1), dim=-1)
    own, others = (normalize(images, dim=-1) @ directions.T for images in (inside, outside))
    effects = (own.mean(dim=0) - others.mean(dim=0)) / others.std(dim=0).clamp(min=1e-6)
    distances = (effects - effects.median()).abs()
    best = int(effects.argmax())
    if float(effects[best]) < EFFECT or float(distances[best]) < APART * float(distances.median()):
        return None
    return Name(phrases[best], float(effects[best]), "images", ())
