"""A run's tables from its records and its log."""

from pathlib import Path
from types import SimpleNamespace

from every_case import every_case

from vecaf_hf.cost import CostMeter
from vecaf_hf.loop import LoopRecord
from vecaf_hf.reporting import summarise
from vecaf_hf.reporting.summary import NAMED_CLASSES, class_table, cost_table, loop_table, table


def record(loop: int, counts: dict[int, int] | None = None, scored: bool = True) -> LoopRecord:
    return LoopRecord(
        loop=loop,
        step=4 * loop,
        selected=10,
        new=10 - loop,
        class_counts={0: 7, 1: 3} if counts is None else counts,
        pool_loss=1.5 if scored else None,
        selected_loss=2.25 if scored else None,
        info={},
    )


HISTORY = [
    {"step": 0, "vecaf/loop": 0},
    {"step": 2, "loss": 2.0},
    {"step": 4, "loss": 1.0},
    {"step": 4, "eval_accuracy": 0.5, "eval_loss": 0.9},
    {"step": 4, "vecaf/loop": 1},
    {"step": 6, "loss": 0.5},
    {"step": 7, "eval_accuracy": 0.6},
    {"step": 7, "eval_accuracy": 0.75},
    {"step": 7, "train_loss": 1.1},
]


def cells(text: str) -> list[list[str]]:
    """Rows of a table whose cells hold single spaces at most."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_each_loop_has_what_was_logged_until_the_next():
    assert cells(loop_table([record(0), record(1, scored=False)], HISTORY)) == [
        ["loop", "steps", "selected", "new", "pool loss", "selected loss", "train loss", "eval accuracy"],
        ["0", "0-4", "10", "10", "1.500", "2.250", "1.500", "0.500"],
        ["1", "4-7", "10", "9", "-", "-", "0.500", "0.750"],
    ]


@every_case("history", [[], [{"step": 0, "vecaf/loop": 0}]])
def test_a_loop_of_which_nothing_was_logged(history):
    assert cells(loop_table([record(0)], history))[1] == ["0", "0-0", "10", "10", "1.500", "2.250", "-", "-"]


def test_selected_samples_by_class_and_loop():
    records = [record(0, {0: 7, 2: 3}), record(1, {1: 10}), record(2, {3: 10})]
    assert cells(class_table(records, ["shirt", "coat", "ankle boot"])) == [
        ["class", "loop 0", "loop 1", "loop 2"],
        ["shirt", "7", "0", "0"],
        ["coat", "0", "10", "0"],
        ["ankle boot", "3", "0", "0"],
        ["3", "0", "0", "10"],
    ]


def test_of_many_classes_only_how_many_are_covered():
    many = {label: 1 + label for label in range(NAMED_CLASSES + 1)}
    records = [record(0, many), record(1, {3: 2, 200: 8}), record(2, {})]
    assert cells(class_table(records, [])) == [
        ["loop", "classes", "fewest", "most"],
        ["0", str(NAMED_CLASSES + 1), "1", str(NAMED_CLASSES + 1)],
        ["1", "2", "2", "8"],
        ["2", "0", "0", "0"],
    ]


def test_no_labels():
    assert class_table([record(0, {}), record(1, {})], ["shirt"]) == "no labels"


@every_case("name", ["two\nlines", "$x$", "", "tab\there"])
def test_a_class_is_one_row_whatever_its_name(name):
    lines = class_table([record(0)], [name, "b"]).split("\n")
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1


def test_cost_by_kind_and_in_all():
    meter = CostMeter()
    meter.add("score", samples=12_345, flops=1.5e12)
    meter.add("train", samples=10, flops=2.25e12)
    meter.work["score"].seconds, meter.work["train"].seconds = 1.25, 60.0
    rows = cells(cost_table(meter.state_dict()["work"]))
    assert rows[0] == ["work", "samples", "TFLOPs", "seconds"]
    assert ["score", "12,345", "1.500", "1.2"] in rows and ["train", "10", "2.250", "60.0"] in rows
    assert ["evaluate", "0", "0.000", "0.0"] in rows
    assert rows[-1] == ["all", "3.750", "61.2"]


def test_columns_are_as_wide_as_their_widest_cell():
    assert table([["name", "n"], ["a", "1,000"], ["abcdef", "2"]]) == (
        "  name        n\n  a       1,000\n  abcdef      2"
    )


@every_case("metrics", [{}, {"test_accuracy": 0.5, "test_loss": 1.25}])
def test_the_summary_has_every_part(metrics):
    report = SimpleNamespace(
        args=SimpleNamespace(output_dir="runs/one"),
        history=HISTORY,
        records=[record(0), record(1)],
        class_names=["shirt", "coat"],
        work=CostMeter().state_dict()["work"],
    )
    text = summarise(report, metrics, [Path("runs/one/curves.png")])
    titles = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert titles == ["Selection by loop", "Selected samples by class", "Cost", "Result", "Files"]
    for part in (loop_table(report.records, HISTORY), class_table(report.records, ["shirt", "coat"])):
        assert part in text
    assert ("0.5000" in text) is bool(metrics) and ("no test split" in text) is not bool(metrics)
    assert str(Path("runs/one/curves.png")) in text and str(Path("runs/one/trainer_state.json")) in text
