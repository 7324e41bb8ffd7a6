"""One file that holds all of a page, whatever names are in it."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

from every_case import every_case
from matplotlib.figure import Figure
from PIL import Image

from vecaf_hf.reporting.contact_sheet import Tile, contact_sheet
from vecaf_hf.reporting.page import Page, Picture, Section, Table, write_page

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'so' </td>\x1b[31m"


class Tags(HTMLParser):
    """What is opened, what it refers to, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_data(self, data):
        self.text += data


def read(path) -> Tags:
    tags = Tags()
    tags.feed(path.read_text(encoding="utf-8"))
    return tags


def picture(name="one", text="a picture") -> Picture:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    return Picture(name, figure, text)


def page(text=HOSTILE) -> Page:
    section = Section(text, [text], [Table([text, "n"], [[text, "1"]])], [picture(text=text)], [text])
    return Page(text, [text], [section])


def test_whatever_text_a_page_holds_is_escaped(tmp_path):
    path, *_ = write_page(page(), tmp_path)
    tags = read(path)
    assert "script" not in tags.tags and "\x1b" not in path.read_text()
    # Title, heading, lead, section, text, two cells, note.
    assert tags.text.count("<script>alert(1)</script>") == 8


def test_the_file_needs_no_other(tmp_path):
    path, png = write_page(page("plain"), tmp_path / "new" / "folder")
    tags = read(path)
    assert [reference.split(",")[0] for reference in tags.references] == ["data:image/png;base64"]
    assert base64.b64decode(tags.references[0].split(",")[1]) == png.read_bytes()
    assert png.name == "one.png" and Image.open(png).size == (400, 200)
    assert not re.search(r"https?:", path.read_text())
    assert not {"script", "link", "iframe", "object"} & set(tags.tags)


def test_rows_that_stand_out_and_columns_of_words(tmp_path):
    table = Table(["a", "b"], [["x", "y"], ["all", "z"]], emphasised=frozenset({1}), words=frozenset({1}))
    path, *_ = write_page(Page("t", [], [Section("s", tables=[table])]), tmp_path)
    text = path.read_text()
    assert re.search(r'<tr class="emphasised"><td>all</td><td class="words">z</td></tr>', text)
    assert '<th class="words">b</th>' in text


# --- Contact sheets ---


def pixels(figure: Figure) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    return Image.open(buffer).convert("RGB")


def test_a_sheet_shows_its_images():
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("L", (300, 20), 0)
    figure = contact_sheet([("first", [Tile(red, ["a"])] * 7), ("none", []), ("second", [Tile(blue, ["b", "$x$"])])])
    shown = pixels(figure)
    colours = shown.getcolors(maxcolors=10**6)
    assert sum(count for count, colour in colours if colour == (255, 0, 0)) > 7 * 40**2
    assert len(figure.subfigs) == 2
    assert [len(part.axes) for part in figure.subfigs] == [7, 1]


def test_a_sheet_says_where_there_is_no_image():
    (axes,) = contact_sheet([("h", [Tile(None, [])])]).subfigs[0].axes
    assert [text.get_text() for text in axes.texts] == ["no image"]


@every_case("line", ["word " * 80, "x" * 500, "$_{", "a\nb", ""])
def test_long_and_odd_lines_are_cut(line):
    figure = contact_sheet([("$h$", [Tile(Image.new("L", (8, 8)), [line])])])
    (heading, text) = figure.subfigs[0].texts
    assert heading.get_text() == "$h$" and len(text.get_text().split("\n")) <= 5
    pixels(figure)
