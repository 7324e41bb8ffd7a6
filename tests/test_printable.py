"""Whatever a name holds, it is one line that can be seen."""

from every_case import every_case
from hypothesis import given
from hypothesis import strategies as st

from vecaf_hf.printable import printable


@every_case(
    ("text", "printed"),
    [
        ("ankle boot", "ankle boot"),
        ("Stiefelette für Ärzte, 靴, 👢", "Stiefelette für Ärzte, 靴, 👢"),
        ("two\nlines\tand\r\nmore", r"two\nlines\tand\r\nmore"),
        ("\x1b]0;owned\x07\x1b[2J", r"\x1b]0;owned\x07\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),  # An escape sequence begins with this single character too.
        ("line\u2028separator\x85next", r"line\u2028separator\x85next"),
        ("safe\u202egnp.exe", r"safe\u202egnp.exe"),
        ("\x00", r"\x00"),
        ("caf\udce9", r"caf\udce9"),  # As Python reads a file's name that is no UTF-8.
        ("", ""),
        (7, "7"),
    ],
)
def test_printable(text, printed):
    assert printable(text) == printed


@every_case(("longest", "printed"), [(None, "abcde"), (5, "abcde"), (4, "abc…"), (1, "…")])
def test_what_is_cut_off_leaves_an_ellipsis(longest, printed):
    assert printable("abcde", longest) == printed


@given(st.text(st.characters(), max_size=40), st.none() | st.integers(1, 20))
def test_any_text_becomes_one_visible_line_of_that_length(text, longest):
    line = printable(text, longest)
    assert line.isprintable()
    assert longest is None or len(line) <= longest
    assert text != line or text.isprintable()
    line.encode()
