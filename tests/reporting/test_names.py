"""Names of classes, datasets, models and folders can be anything; card, summary and pictures stay whole."""

import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard, metadata_load
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers.modelcard import TrainingSummary

from vecaf_hf.cost import CostMeter
from vecaf_hf.loop import LoopRecord
from vecaf_hf.reporting import summarise, write_plots
from vecaf_hf.reporting.card import TITLE, add_selection_section
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
    f"\n{TITLE}\n",
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
        state=SimpleNamespace(log_history=logs),
        selection=SimpleNamespace(indices=SimpleNamespace(numel=lambda: 10)),
        train_dataset=range(100),
        loop_records=records,
        class_names=names,
        meter=CostMeter(),
    )


def blocks(section):
    """The lines of each fenced block, and those outside, as CommonMark reads them."""
    inside, outside, fence = [], [], None
    for line in section.split("\n"):
        ticks = re.match(r" {0,3}(`{3,})(.*)$", line)
        if fence is None and ticks:
            fence = ticks[1]
            inside.append([])
        elif fence is None:
            outside.append(line)
        elif ticks and len(ticks[1]) >= len(fence) and not ticks[2].strip():
            fence = None
        else:
            inside[-1].append(line)
    assert fence is None, "the last block does not end"
    return inside, outside


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(name=names.filter(bool), classes=class_names)
@example(name="\x85", classes=NASTY[:NAMED_CLASSES])
@example(name="\x85", classes=NASTY[-NAMED_CLASSES:])
@example(name="a", classes=["`" * count for count in range(9)])
def test_a_cards_metadata_and_tables_survive_any_name(tmp_path, name, classes):
    path = tmp_path / "README.md"
    written = TrainingSummary(
        model_name=name,
        license="mit",
        tags=["vision", name],
        tasks="image-classification",
        finetuned_from=name,
        dataset_tags=[name],
        dataset=[name],
        dataset_args=[name],
        dataset_metadata=[{"config": name, "split": "train"}],
        eval_results={"accuracy": 0.5},
        eval_lines=[],
    )
    path.write_text(written.to_model_card(), encoding="utf-8")
    before = metadata_load(path)
    plain = finished_run(tmp_path, ["a"] * len(classes))
    add_selection_section(str(path), plain)
    expected, prose = blocks(path.read_text().split(f"\n{TITLE}\n")[-1])
    # A second time, as when a run resumes: it takes the first one's place.
    add_selection_section(str(path), finished_run(tmp_path, classes))
    assert metadata_load(path) == before == written.create_metadata()
    assert ModelCard.load(path).data.to_dict()["base_model"] == name
    text = path.read_bytes().decode()
    *_, section = text.split(f"\n{TITLE}\n")
    assert section.isprintable() or set(re.findall(r"[^ -\U0010ffff]|\x7f", section)) == {"\n"}
    found, outside = blocks(section)
    assert outside == prose
    assert [len(lines) for lines in found] == [len(lines) for lines in expected]
    assert found[0] == expected[0] and found[2] == expected[2]
    assert [line.split()[-2:] for line in found[1][1:]] == [["2", "2"]] * len(classes)


def test_a_section_takes_the_place_of_an_earlier_one(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("---\nlicense: mit\n---\n\n# Model\n\nAbout it.\n")
    for classes in (["first", "b"], ["second", "b"]):
        add_selection_section(str(path), finished_run(tmp_path, classes))
    text = path.read_text()
    assert text.startswith("---\nlicense: mit\n---\n\n# Model\n\nAbout it.\n\n" + TITLE)
    assert text.count(TITLE) == 1 and "second" in text and "first" not in text


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


@pytest.mark.parametrize("name", [r"$\alpha$", "$x$ $y$", r"\$"])
def test_a_name_is_drawn_as_it_is_written(name):
    (label,) = selection(finished_run("", [name]).loop_records, [name]).axes[0].get_yticklabels()
    assert label.get_text() == name and not label.get_parse_math()
