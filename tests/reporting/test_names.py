"""Names of classes, datasets, models and folders can be anything; summary and pictures stay whole."""

import warnings
from pathlib import Path
from types import SimpleNamespace

from every_case import every_case
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vecaf_hf.cost import CostMeter
from vecaf_hf.loop import LoopRecord
from vecaf_hf.reporting import summarise, write_plots
from vecaf_hf.reporting.plots import selection
from vecaf_hf.reporting.summary import NAMED_CLASSES, WIDEST_CELL

NASTY = [
    "a|b",
    "two\nlines",
    "---",
    "\n---\n",
    "\r\n---\r\n",
    "```",
    "\n```\n# heading",
    "`code`",
    "<script>alert(1)</script>",
    r"$\frac",
    r"\$\alpha$ $",
    "$$",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\x00",
    "\u202egnp.exe",
    "\u2028",
    "\x85",
    "[x](javascript:y)",
    "!!python/object:os.system",
    "{{ x }} {% y %}",
    "null",
    "- a: 'b\"",
    "W" * 200,
    "a" + "\u0300" * 99,
    "中文字",
    "עברית",
    "हिन्दी",
    "👨‍👩‍👧",
    "\U0001242b" * 40,
    " ",
    "\n<!-- /vecaf_hf:selection -->\n",
]
PIECES = [*"|`-#:\"'$<>\\{}[]!&* \n\r\t\x1b\x00\x85\u2028\u202e\ufeff", "```", "---", "\n---\n", "a", "é", "靴"]
names = st.sampled_from(NASTY) | st.text(min_size=1, max_size=30) | st.lists(st.sampled_from(PIECES)).map("".join)
# Half a character: the name of a folder that is no UTF-8. No file can hold it, and Trainer's own part of the card none.
class_names = st.lists(names | st.just("caf\udce9"), min_size=1, max_size=6)


def finished_run(folder, names):
    counts = dict.fromkeys(range(len(names)), 2)
    records = [LoopRecord(loop, 4 * loop, 10, 10 - loop, counts, 1.5, 1.5, {}) for loop in range(2)]
    logs = [{"step": step, "loss": 1 / step} for step in (2, 4, 6)]
    return SimpleNamespace(
        args=SimpleNamespace(output_dir=str(folder), to_dict=lambda: {"strategy": "ods"}),
        history=logs,
        train_dataset=range(100),
        records=records,
        class_names=names,
        work=CostMeter().state_dict()["work"],
    )


@settings(deadline=None, max_examples=100)
@given(classes=class_names, folder=names.filter(bool), metric=names)
@example(classes=NASTY[-NAMED_CLASSES:], folder=NASTY[12], metric=NASTY[1])
def test_a_summary_cannot_steer_the_terminal(classes, folder, metric):
    plot = Path(folder.replace("/", "_").replace("\x00", "")) / "curves.png"
    text = summarise(finished_run(folder, classes), {f"{metric}_loss": 0.5, "test_accuracy": 0.25}, [plot])
    plain = summarise(finished_run("x", ["a"] * len(classes)), {"x_loss": 0.5, "test_accuracy": 0.25}, [Path("x")])
    assert [line for line in text.split("\n") if not line.isprintable()] == []
    assert text.count("\n") == plain.count("\n")
    assert max(map(len, text.split("\nFiles\n")[0].split("\n"))) < 2 * WIDEST_CELL + 20
    text.encode()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=6)
@given(classes=class_names)
@example(classes=NASTY[:16])
@example(classes=NASTY[16:])
@example(classes=["W" * 100] * 12)
@example(classes=["$$"])
def test_pictures_are_drawn_without_a_warning(tmp_path, classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = write_plots(finished_run(tmp_path, classes), tmp_path / "plots")
    # No name is part of a path.
    assert sorted((tmp_path / "plots").iterdir()) == sorted(paths)


@every_case("name", [r"$\alpha$", "$x$ $y$", r"\$"])
def test_a_name_is_drawn_as_it_is_written(name):
    (label,) = selection(finished_run("", [name]).records, [name]).axes[0].get_yticklabels()
    assert label.get_text() == name and not label.get_parse_math()
