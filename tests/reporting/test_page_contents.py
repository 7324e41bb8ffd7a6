"""The pages of an inspection and of a run, made from data alone."""

import warnings
from dataclasses import replace

import pytest
import torch
from PIL import Image

from vecaf_hf.cost import KINDS, Work
from vecaf_hf.inspection import Inspection
from vecaf_hf.inspection import figures as inspection_figures
from vecaf_hf.inspection import page as inspection_page
from vecaf_hf.inspection import words as inspection_words
from vecaf_hf.inspection.budget import Budget
from vecaf_hf.inspection.duplicates import NearDuplicates
from vecaf_hf.inspection.embedding_map import EmbeddingMap
from vecaf_hf.inspection.extremes import CENTROID, CLASS_MEAN, Extremes
from vecaf_hf.inspection.inspection import Sample
from vecaf_hf.inspection.out_of_fold import SuspiciousLabel
from vecaf_hf.inspection.shares import ClassShare, Histogram
from vecaf_hf.loop import LoopRecord
from vecaf_hf.reporting import run_page
from vecaf_hf.reporting.images import images_of
from vecaf_hf.reporting.page import write_page
from vecaf_hf.reporting.run import FinishedRun
from vecaf_hf.selection import Selection


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def work(score=0, train=64) -> dict[str, Work]:
    kinds = {kind: Work() for kind in KINDS}
    return kinds | {"score": Work(score, 1e9 * score, float(score)), "train": Work(train, 3e9 * train, 3.0 * train)}


def budget(loops: int, score: int = 100) -> Budget:
    plain = {"train": Work(64 * loops, 3e9 * 64 * loops, 3.0 * 64 * loops), "evaluate": Work()}
    return Budget(tuple(work(score) for _ in range(loops)), plain, ("a note",))


HISTOGRAM = Histogram((0.0, 1.0, 2.0), (0.5, 0.5), (0.1, 0.9), 1.0, 1.4)
SHARES = {"candidates": 0.1, "selected": 0.3}
NAMES = ("<b>bag</b>", "$x_{", "coat")


def inspection(**changes) -> Inspection:
    values = Inspection(
        strategy="ods",
        pool_size=100,
        budget=10,
        num_loops=2,
        looked_at=100,
        selected_from=100,
        is_part=False,
        scores=True,
        selected=tuple(range(10)),
        cost=budget(2),
        classes=tuple(ClassShare(label, name, 30, 3 * label) for label, name in enumerate(NAMES)),
        losses=HISTOGRAM,
        fold_losses=HISTOGRAM,
        duplicates=NearDuplicates(0.95, 10, 2, 1, 1, ((3, 4, 0.97),)),
        checked_labels=90,
        suspicious=(SuspiciousLabel(5, 0, 2, 0.93, 4.5, True),),
        extremes=Extremes(CENTROID, ((1, 0.9),), ((2, 0.1),)),
        map=EmbeddingMap(
            "PCA", 0.4, (1, 2, 3, 4), (0.0, 1, 2, 3), (0.0, 1, 0, 1), (0, 1, 2, 3), (True, False, False, True), SHARES
        ),
        samples={index: Sample(NAMES[0], "a \"caption\" & <more>") for index in range(1, 6)},
        class_names=NAMES,
    )  # fmt: skip
    return replace(values, **changes)


CASES = {
    "everything": {},
    "a part": {"is_part": True, "selected_from": 50},
    "scored for looking": {"scores": False, "strategy": "random", "extremes": Extremes(CLASS_MEAN, (), ())},
    "no classes": {
        "classes": (), "fold_losses": None, "losses": None, "checked_labels": 0, "suspicious": (),
        "map": EmbeddingMap("UMAP", None, (1,), (0.0,), (0.0,), (1,), (), {}),
    },
    "nothing found": {"suspicious": (), "duplicates": NearDuplicates(0.95, 10, 0, None, 0, ())},
    "many classes": {"classes": tuple(ClassShare(label, f"class {label}", 5, label % 3) for label in range(300))},
    "many loops": {"cost": budget(40)},
    "nothing costs": {"cost": Budget(({kind: Work() for kind in KINDS},), {"train": Work(), "evaluate": Work()})},
    "activeft": {"strategy": "activeft", "map": EmbeddingMap("PCA", 1.0, (1, 2), (0.0, 1), (0.0, 1), (0, 1), (), {})},
}  # fmt: skip


def image_of(index: int) -> Image.Image | None:
    return None if index == 2 else Image.new("L", (28, 28), 100)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_inspections_page_is_written(tmp_path, case):
    path, *others = inspection_page.write_inspection(inspection(**case), image_of, tmp_path)
    assert path.name == "index.html" and {"budget.png", "map.png", "inspection.json"} <= {one.name for one in others}
    assert all(one.stat().st_size > 100 for one in (path, *others))
    assert "<b>bag" not in path.read_text()
    assert inspection_words.summary_of(inspection(**case), [path])


def text_of(tmp_path, **changes) -> str:
    return write_page(inspection_page.page_of(inspection(**changes), image_of), tmp_path)[0].read_text()


def test_the_page_says_what_was_looked_at(tmp_path):
    assert "the run&#39;s first one, from 100 candidates" in text_of(tmp_path)
    assert "from 50 random candidates" in text_of(tmp_path, **CASES["a part"])
    text = text_of(
        tmp_path, **CASES["scored for looking"] | {"extremes": Extremes(CLASS_MEAN, ((1, 0.9),), ((2, 0.1),))}
    )
    assert "needs no scores" in text and "the strategy has no centroids" in text


def test_the_budgets_rows_add_up():
    header, rows = inspection_words.budget_rows(inspection())
    assert header[1:4] == ["scored", "trained", "evaluated"]
    assert [row[:4] for row in rows] == [
        ["loop 0", "100", "64", "0"],
        ["loop 1", "100", "64", "0"],
        ["all loops", "200", "128", "0"],
        ["plain finetuning", "0", "128", "0"],
    ]
    # 100 of 100 + 3 x 64.
    assert rows[2][5] == "34.2 %" and rows[3][5] == "0.0 %"
    # 200 seconds beside 384.
    assert "52 % more batches" in inspection_words.budget_sentence(inspection())


def test_every_kind_of_work_has_a_colour_of_its_own():
    assert inspection_figures.COLOURS.keys() == KINDS.keys()
    assert len(set(inspection_figures.COLOURS.values())) == len(KINDS)


def test_bars_are_stacked_to_the_whole():
    totals, _, by_loop, _ = inspection_figures.budget(budget(3)).axes
    ends = [patch.get_x() + patch.get_width() for patch in totals.patches]
    assert max(ends) == pytest.approx((300 * 1e9 + 3 * 64 * 3e9) / 1e12)
    assert [label.get_text() for label in by_loop.get_xticklabels()] == ["0", "1", "2"]


def test_the_map_tells_the_selections_apart():
    figure = inspection_figures.embedding_map(inspection().map, "ods")
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [
        "not selected (1)",
        "selected by activeft only (1)",
        "selected by ods only (1)",
        "selected by both (1)",
        "on a class boundary (2)",
    ]


def test_of_many_classes_those_that_differ_most_are_drawn():
    shares = [ClassShare(label, f"class {label}", 10, 50 if label in (7, 270) else 1) for label in range(300)]
    (axes,) = inspection_figures.classes(shares).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert {"class 7", "class 270"} <= set(names) and len(names) == 40


# --- A run ---


def run(loops=3, cea=True, **changes) -> FinishedRun:
    info = {"cea_alpha_max": 1.2, "cea_relative_shift": 0.1} if cea else {}
    records = [LoopRecord(n, 4 * n, 10, 5, {0: 6, 1: 4}, 1.5, 1.7, {"flops": 3.0, **info}) for n in range(loops)]
    values = FinishedRun(
        folder=changes.pop("folder"),
        source=changes.pop("source"),
        step=12,
        total_steps=12,
        pool_size=100,
        strategy="ods",
        has_cea=cea,
        selections=[Selection(torch.arange(5 * n, 5 * n + 10)) for n in range(loops)],
        records=records,
        history=[{"step": step, "loss": 1 / (step + 1)} for step in range(12)] + [{"step": 12, "eval_accuracy": 0.5}],
        work={kind: vars(work(300)[kind]) for kind in KINDS},
        attention=torch.rand(10) if cea else None,
        class_names=["<i>a</i>", "b"],
    )
    return replace(values, **changes)


RUNS = {
    "with CEA": {},
    "without CEA": {"cea": False},
    "attention is not known": {"attention": None},
    "one loop": {"loops": 1},
    "many loops": {"loops": 30},
    "nothing logged": {"history": []},
    "nothing counted": {"work": {kind: vars(Work()) for kind in KINDS}},
    "no loops": {"loops": 0},
    "no names": {"class_names": []},
}


@pytest.mark.parametrize("case", RUNS.values(), ids=RUNS)
def test_a_runs_page_is_written(tmp_path, case):
    made = run(folder=tmp_path / "<run>", source=tmp_path / "<run>" / "checkpoint-12", **case)
    path, *_ = run_page.write_run_page(made, tmp_path / "page")
    text = path.read_text()
    assert "<i>a" not in text and "<run>" not in text and str(tmp_path) not in text
    assert "checkpoint-12" in text
    assert run_page.summary_of(made, [path])


def test_a_page_says_what_is_missing_and_what_cea_did(tmp_path):
    made = run(folder=tmp_path, source=tmp_path, missing=("No costs were written.",))
    text = write_page(run_page.page_of(made), tmp_path / "page")[0].read_text()
    assert "No costs were written." in text and "largest alpha" in text and ">1.2<" in text
    plain = run(folder=tmp_path, source=tmp_path, cea=False)
    assert "had no CEA" in write_page(run_page.page_of(plain), tmp_path / "plain")[0].read_text()


# --- Images ---


def test_images_come_from_wherever_they_are(fashion, train):
    stored = images_of(train)(3)
    assert stored.size == (28, 28) and stored.tobytes() == fashion[3]["image"].convert("RGB").tobytes()
    tensor = torch.linspace(-2, 2, 3 * 4 * 5).reshape(3, 4, 5)
    shown = images_of([{"labels": 1, "pixel_values": tensor}])(0)
    assert shown.size == (5, 4) and shown.getextrema()[2][1] == 255 and shown.getextrema()[0][0] == 0
    assert images_of([(Image.new("L", (6, 7)), 1)])(0).size == (6, 7)
    assert images_of([torch.zeros(1, 2, 2)])(0).size == (2, 2)
    assert images_of([{"x": 3}])(0) is None
    assert images_of([])(9) is None
