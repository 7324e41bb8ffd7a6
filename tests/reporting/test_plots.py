"""Pictures of any run, without a warning."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from every_case import every_case
from matplotlib.image import imread

from vecaf_hf.cost import CostMeter
from vecaf_hf.loop import LoopRecord
from vecaf_hf.reporting import write_plots
from vecaf_hf.reporting.plots import LABELLED_CLASSES, cost, curves, selection


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def make_records(loops: int, counts: dict[int, int], scored: bool = True) -> list[LoopRecord]:
    loss = 1.5 if scored else None
    return [LoopRecord(loop, 4 * loop, 10, 10 - min(loop, 10), counts, loss, loss, {}) for loop in range(loops)]


def make_history(steps: int) -> list[dict[str, float]]:
    logs = [{"step": step, "loss": 2 / (step + 1)} for step in range(1, steps + 1)]
    return [*logs, {"step": steps, "eval_loss": 0.7, "eval_accuracy": 0.6}]


def worked() -> CostMeter:
    meter = CostMeter()
    meter.add("score", samples=100, flops=1e12)
    meter.add("train", samples=300, flops=9e12)
    meter.work["score"].seconds, meter.work["train"].seconds = 2.0, 17.0
    return meter


def run(records, history=None, names=("a", "b"), meter=None):
    return SimpleNamespace(
        records=records,
        history=make_history(12) if history is None else history,
        class_names=list(names),
        work=(meter or worked()).state_dict()["work"],
    )


RUNS = {
    "three loops": lambda: run(make_records(3, {0: 6, 1: 4})),
    "one loop": lambda: run(make_records(1, {0: 6, 1: 4})),
    "one class": lambda: run(make_records(2, {1: 10})),
    "no labels": lambda: run(make_records(3, {})),
    "no scoring": lambda: run(make_records(3, {0: 10}, scored=False)),
    "labels in the first loop only": lambda: run([*make_records(1, {0: 6, 1: 4}), *make_records(2, {})[1:]]),
    "200 classes": lambda: run(make_records(3, dict.fromkeys(range(200), 1)), names=[f"class {i}" for i in range(200)]),
    "names": lambda: run(
        make_records(2, dict.fromkeys(range(6), 2)), names=["$a_b", "$$", "a\nb", "", "\\frac{", "é ü"]
    ),
    "no names": lambda: run(make_records(2, {0: 1, 7: 3}), names=[]),
    "nothing logged": lambda: run(make_records(2, {0: 10}), history=[]),
    "no evaluation": lambda: run(make_records(2, {0: 10}), history=make_history(5)[:-1]),
    "nothing counted": lambda: run(make_records(2, {0: 10}), meter=CostMeter()),
    "not trained": lambda: run([], history=[], meter=CostMeter()),
    "many loops": lambda: run(make_records(60, {0: 6, 1: 4}), history=make_history(240)),
}


@pytest.mark.parametrize("case", RUNS)
def test_plots_are_written_for_any_run(tmp_path, case):
    paths = write_plots(RUNS[case](), tmp_path / "new" / "plots")
    assert [path.name for path in paths] == ["curves.png", "selection.png", "cost.png"]
    for path in paths:
        picture = imread(path)
        assert min(picture.shape[:2]) > 100 and float(np.std(picture)) > 0


def test_curves_hold_what_was_logged():
    losses, accuracies = curves(make_records(3, {}), make_history(12)).axes
    by_label = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert by_label["training"] == [[step, 2 / (step + 1)] for step in range(1, 13)]
    assert by_label["evaluation"] == [[12, 0.7]]
    assert by_label["pool, as scored"] == [[0, 1.5], [4, 1.5], [8, 1.5]]
    assert accuracies.lines[0].get_xydata().tolist() == [[12, 0.6]]
    boundaries = [line.get_xdata()[0] for line in losses.lines if line.get_linestyle() == "--"]
    assert boundaries == [4, 8]


def test_the_heat_map_holds_counts_by_class_and_loop():
    records = [*make_records(1, {0: 6, 5: 4}), *make_records(2, {5: 10})[1:]]
    by_class, novelty = selection(records, ["a", "b"]).axes[:2]
    assert by_class.images[0].get_array().tolist() == [[6, 0], [4, 10]]
    assert [label.get_text() for label in by_class.get_yticklabels()] == ["a", "5"]
    heights = [bar.get_height() for bar in novelty.patches]
    assert heights == [10, 9, 0, 1]


@every_case(("classes", "labelled"), [(LABELLED_CLASSES, True), (LABELLED_CLASSES + 1, False)])
def test_rows_are_named_while_there_is_room(classes, labelled):
    names = [f"name {label}" for label in range(classes)]
    by_class = selection(make_records(1, dict.fromkeys(range(classes), 1)), names).axes[0]
    assert ("name 0" in [label.get_text() for label in by_class.get_yticklabels()]) is labelled


def test_cost_shows_the_work_that_was_done():
    seconds, flops = cost(worked().state_dict()["work"]).axes
    assert [label.get_text() for label in seconds.get_yticklabels()] == ["score", "train"]
    assert [bar.get_width() for bar in seconds.patches] == [2, 17]
    assert [bar.get_width() for bar in flops.patches] == [1, 9]
