"""A page of sections: one HTML file that holds its pictures, and the pictures as PNG files beside it."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from vecaf_hf.cost import KINDS
from vecaf_hf.printable import printable

# Two pixels for each of a page 860 wide, for figures 8.6 inches wide.
DPI = 200


@dataclass(frozen=True)
class Table:
    """Cells in rows.

    Args:
        header: One cell a column.
        rows: The first cell of a row names it, the others are numbers.
        emphasised: Rows that stand out, such as a sum.
        words: Columns beside the first that hold words.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    emphasised: frozenset[int] = frozenset()
    words: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        name: Of its file, without `.png`.
        figure: What it shows.
        text: What it shows, for readers who do not see it.
    """

    name: str
    figure: Figure
    text: str


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order."""

    title: str
    texts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """What `write_page` writes."""

    title: str
    lead: Sequence[str]
    sections: Sequence[Section] = field(default_factory=list)


def write_page(page: Page, folder: Path) -> list[Path]:
    """Write `index.html` and the pictures into a folder; returns their paths, the page first."""
    folder.mkdir(parents=True, exist_ok=True)
    files, inline = [], {}
    for picture in (picture for section in page.sections for picture in section.pictures):
        content = png(picture.figure)
        files.append(folder / f"{picture.name}.png")
        files[-1].write_bytes(content)
        inline[picture.name] = base64.b64encode(content).decode()
    path = folder / "index.html"
    path.write_text(html(page, inline), encoding="utf-8")
    return [path, *files]


def html(page: Page, inline: dict[str, str]) -> str:
    """The page with its pictures, PNG files in base64 by name; whatever text it holds is escaped."""
    environment = Environment(
        loader=PackageLoader("vecaf_hf.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = printable
    return environment.get_template("page.html").render(page=page, inline=inline)


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = BytesIO()
    with warnings.catch_warnings():
        # Names in a script that the font lacks are drawn as boxes; the page's own text has them.
        warnings.filterwarnings("ignore", r"Glyph .* missing from|Matplotlib currently does not support")
        figure.savefig(buffer, dpi=DPI, format="png")
    return buffer.getvalue()


def work_table(work: Mapping[str, Mapping[str, float]]) -> Table:
    """Samples, FLOPs and seconds of each kind of work, and their parts."""
    flops, seconds = (sum(work[kind][of] for kind in KINDS) for of in ("flops", "seconds"))
    rows = [
        [
            kind.replace("_", " "),
            f"{work[kind]['samples']:,}",
            f"{work[kind]['flops'] / 1e12:.3f}",
            _percent(work[kind]["flops"], flops),
            f"{work[kind]['seconds']:.1f}",
            _percent(work[kind]["seconds"], seconds),
        ]
        for kind in KINDS
    ]
    total = ["all", "", f"{flops / 1e12:.3f}", "", f"{seconds:.1f}", ""]
    header = ["work", "samples", "TFLOPs", "part", "seconds", "part"]
    return Table(header, [*rows, total], emphasised=frozenset({len(KINDS)}))


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def links(paths: Iterable[Path]) -> str:
    """Files, one a line, for a terminal."""
    return "\n".join(f"  {printable(path)}" for path in paths)
