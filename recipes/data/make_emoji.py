"""Write a dataset of emoji pictures, classified by Unicode's categories.

    npm pack emoji-datasource-google emoji-datasource-twitter
    python recipes/data/make_emoji.py FOLDER... TARGET

Each FOLDER is one unpacked package (with `emoji.json` in it), TARGET is a folder that `--dataset_name` takes. The
packages and their data are Cal Henderson's (MIT licence); the pictures are Google's Noto Emoji (Apache-2.0) and
Twitter's Twemoji (CC-BY 4.0: name the source where you show them).

The columns: `image`, 64 px on white; `label`, the category; `caption`, the emoji's own name, such as "grinning face
with smiling eyes"; `vendor`. People are most of the pictures, and most of those differ in the skin tone alone: the pool
is unbalanced and redundant by nature. Of each category a fifth of the emojis is held out for validation and a fifth for
the test, with no near copy on another side (`families`), and at most `CAP` pictures of a class.

With `--rare twitter=0.05` the pool has all pictures of the other vendors and of Twitter's a twentieth: a condition that
no label tells. Validation and test have both vendors alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Part of each category's emojis that validation and test get, each, and the most pictures of a class in them.
HELD_OUT, CAP = 0.2, 60
SEED = 0
# Skin tones and swatches of hair.
LEFT_OUT = "Component"
# Code points that vary an emoji: the joiner, the style, skin tones, genders and the direction.
VARIATIONS = {"200D", "FE0F", "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF", "2640", "2642", "27A1"}
# Men and women are variations of persons, boys and girls of children, and a clock's hours of each other.
ALIKE = {
    **dict.fromkeys(("1F468", "1F469"), "1F9D1"),
    **dict.fromkeys(("1F466", "1F467"), "1F9D2"),
    **dict.fromkeys(("1F474", "1F475"), "1F9D3"),
    **{f"{point:X}": "1F550" for point in range(0x1F550, 0x1F568)},
}

Trait = tuple[str, str | bytes]


@dataclass(frozen=True)
class Picture:
    """One vendor's picture of an emoji in one skin tone.

    Args:
        emoji: The emoji's code points without a skin tone, as `emoji.json` joins them: "1F3C3-200D-2640-FE0F".
        unified: This picture's own code points.
    """

    image: Image.Image
    category: str
    name: str
    vendor: str
    emoji: str
    unified: str


def read(package: Path) -> Iterator[Picture]:
    """All pictures of an unpacked package."""
    (folder,) = (package / "img").iterdir()
    vendor = folder.name
    for emoji in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        if emoji["category"] == LEFT_OUT:
            continue
        for variant in (emoji, *emoji.get("skin_variations", {}).values()):
            if variant[f"has_img_{vendor}"]:
                image = on_white(folder / "64" / variant["image"])
                name = emoji["name"].lower()
                yield Picture(image, emoji["category"], name, vendor, emoji["unified"], variant["unified"])


def on_white(file: Path) -> Image.Image:
    picture = Image.open(file).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def plain(unified: str) -> str:
    """Code points without what varies an emoji: the same for a woman who runs and for a man who runs to the right."""
    points = unified.split("-")
    # What consists of nothing else, such as the sign for female, is no variation.
    return "-".join(ALIKE.get(point, point) for point in points if point not in VARIATIONS) or unified


def families(pictures: list[Picture]) -> np.ndarray:
    """A number that pictures share which are near copies of each other, directly or by others between them. [n].

    Such are pictures of one emoji, variations of it, and emojis with the same picture, as some flags are.
    """
    emojis: list[Trait] = [("emoji", picture.emoji) for picture in pictures]
    traits: list[Trait] = [("plain", plain(picture.unified)) for picture in pictures]
    traits += [("image", picture.image.tobytes()) for picture in pictures]
    # A graph of all these: each picture links its emoji with its two traits.
    node = {value: number for number, value in enumerate(dict.fromkeys(emojis + traits))}
    ends = [node[emoji] for emoji in emojis * 2], [node[trait] for trait in traits]
    graph = coo_array((np.ones(len(traits)), ends), shape=(len(node), len(node)))
    return connected_components(graph, directed=False)[1][ends[0][: len(pictures)]]


def split(pictures: list[Picture]) -> dict[str, np.ndarray]:
    """Rows of each split, in random order."""
    generator = np.random.default_rng(SEED)
    family = families(pictures)
    numbers, first = np.unique(family, return_index=True)
    category = np.array([pictures[row].category for row in first])
    rows: dict[str, list[np.ndarray]] = {"validation": [], "test": [], "train": []}
    for name in np.unique(category):
        shuffled = generator.permutation(numbers[category == name])
        held_out = round(HELD_OUT * len(shuffled))
        for found, chosen in zip(rows.values(), np.split(shuffled, [held_out, 2 * held_out]), strict=True):
            found.append(generator.permutation(np.flatnonzero(np.isin(family, chosen))))
    for name in ("validation", "test"):
        rows[name] = [found[:CAP] for found in rows[name]]
    return {name: generator.permutation(np.concatenate(found)) for name, found in rows.items()}


def with_rare_vendors(pictures: list[Picture], pool: np.ndarray, rare: dict[str, float]) -> np.ndarray:
    """The pool's rows without most of some vendors' pictures.

    Raises:
        ValueError: None is of such a vendor, or its part is not in (0, 1].
    """
    vendor, generator = np.array([pictures[row].vendor for row in pool]), np.random.default_rng(SEED)
    kept = np.ones(len(pool), bool)
    for name, part in rare.items():
        rows = np.flatnonzero(vendor == name)
        if not len(rows) or not 0 < part <= 1:
            raise ValueError(
                f"--rare {name}={part}: give a vendor of {sorted(set(vendor.tolist()))} and a part in (0, 1]"
            )
        kept[generator.permutation(rows)[max(1, round(part * len(rows))) :]] = False
    return pool[kept]


def write(packages: list[Path], target: Path, rare: dict[str, float] | None = None) -> None:
    """The dataset of these packages; `rare` says what part of a vendor's pictures the pool has."""
    pictures = [picture for package in packages for picture in read(package)]
    rows_of = split(pictures)
    rows_of["train"] = with_rare_vendors(pictures, rows_of["train"], rare or {})
    text = datasets.Value("string")
    label = datasets.ClassLabel(names=sorted({picture.category for picture in pictures}))
    features = datasets.Features({"image": datasets.Image(), "label": label, "caption": text, "vendor": text})
    target.mkdir(parents=True, exist_ok=True)
    for name, rows in rows_of.items():
        chosen = [pictures[row] for row in rows]
        columns = {
            "image": [picture.image for picture in chosen],
            "label": [picture.category for picture in chosen],
            "caption": [picture.name for picture in chosen],
            "vendor": [picture.vendor for picture in chosen],
        }
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(target / f"{name}.parquet"))


def part_of_vendor(words: str) -> tuple[str, float]:
    """From `twitter=0.05`."""
    vendor, _, part = words.partition("=")
    try:
        return vendor, float(part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{words!r} is no vendor and its part, such as twitter=0.05") from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("target", type=Path, metavar="TARGET")
    parser.add_argument(
        "--rare",
        type=part_of_vendor,
        action="append",
        metavar="VENDOR=PART",
        help="The part of a vendor's pictures that the pool has, such as twitter=0.05; of others all.",
    )
    given = parser.parse_args()
    write(given.folders, given.target, dict(given.rare or []))
