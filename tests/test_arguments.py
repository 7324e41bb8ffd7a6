"""Every option says what it is, and refuses what has no meaning, at construction."""

import copy
import dataclasses
import json
import math
import pickle

import pytest
import torch
from every_case import every_case
from transformers import HfArgumentParser, TrainingArguments

from vecaf_hf import VeCAFArguments
from vecaf_hf.arguments import DEFAULT_SCORING_FRACTION, RESCORE
from vecaf_hf.scoring.rescoring import RESCORING
from vecaf_hf.selection import SelectionOptions

OURS = [
    field
    for field in dataclasses.fields(VeCAFArguments)
    if field.name not in {inherited.name for inherited in dataclasses.fields(TrainingArguments)}
]


@pytest.fixture
def make(tmp_path):
    return lambda **options: VeCAFArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)


@every_case("field", OURS, ids=lambda field: field.name)
def test_every_option_has_a_help_that_the_command_line_can_print(field):
    text = field.metadata["help"]
    assert text[0].isupper() or text.startswith("Eta") or text.startswith("Lambda")
    assert text.endswith(".") and len(text) > 20
    assert "%" not in text.replace("%%", "")


def test_a_selections_options_are_all_there_with_their_defaults(make):
    made = make()
    for field in dataclasses.fields(SelectionOptions):
        assert getattr(made, field.name) == field.default


@every_case(
    ("options", "named"),
    [
        ({"strategy": "odds"}, "strategy is 'odds' .did you mean 'ods'"),
        ({"strategy": None}, "strategy is None"),
        ({"loss_weighting": "squirt"}, "loss_weighting is 'squirt' .did you mean 'sqrt'"),
        ({"allocation": "classes"}, "allocation is 'classes' .did you mean 'class'"),
        ({"allocation": len}, "allocation is <built-in function len>"),
        ({"ensemble": "bias"}, "ensemble is 'bias' .did you mean 'debias'"),
        ({"ensemble_size": 0}, "ensemble_size is 0; it must be at least 1"),
        ({"centroid_start": "kmeans++"}, "centroid_start is 'kmeans[+][+]' .did you mean 'k-means[+][+]'"),
        ({"diversity_weight": -1.0}, "diversity_weight is -1.0; it must be at least 0"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive and finite"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"selection_learning_rate": math.inf}, "selection_learning_rate is inf"),
        ({"selection_tolerance": -1e-9}, "selection_tolerance is -1e-09"),
        ({"selection_steps": -1}, "selection_steps is -1"),
        ({"num_loops": 0}, "num_loops is 0; it must be at least 1"),
        ({"selection_fraction": 0.0}, "selection_fraction is 0.0; it must be above 0 and at most 1"),
        ({"selection_fraction": 1.5}, "selection_fraction is 1.5"),
        ({"selection_fraction": math.nan}, "selection_fraction is nan"),
        ({"selection_fraction": 0.1, "selection_budget": 10}, "selection_fraction and selection_budget are both given"),
        ({"selection_budget": 0}, "selection_budget is 0; it must be at least 1"),
        ({"rescore": "ful"}, "rescore is 'ful' .did you mean 'full'"),
        ({"rescore": len}, "rescore is <built-in function len>"),
        ({"rescore": "sampled", "scoring_fraction": 0.0}, "scoring_fraction is 0.0"),
        ({"rescore": "stale", "scoring_fraction": 1.01}, "scoring_fraction is 1.01"),
        ({"scoring_fraction": 0.5}, "scoring_fraction is 0.5, and rescore='full' .* set rescore=\"sampled\""),
        ({"scoring_fraction": 0.5, "rescore": "proxy"}, "and rescore='proxy' .* set rescore=\"sampled\""),
        ({"rescore": "stale", "scoring_image_size": 112}, "scoring_image_size is 112, and rescore='stale' sets scores"),
        ({"scoring_image_size": 0}, "scoring_image_size is 0; it must be at least 1"),
        ({"scoring_image_size": 0.5}, "scoring_image_size is 0.5; it must be a whole number"),
        ({"scoring_batch_size": 0}, "scoring_batch_size is 0; it must be at least 1"),
        ({"class_balance": 1.5}, "class_balance is 1.5; it must be at most 1"),
        ({"class_balance": 0.5, "strategy": "jtt"}, "class_balance is 0.5, and strategy 'jtt' gives classes no shares"),
        (
            {"class_balance": 0.5, "strategy": "ods", "allocation": "global"},
            "class_balance is 0.5, and allocation='global' gives classes no shares",
        ),
        ({"strategy": "infobatch", "single_run": True}, "strategy 'infobatch' goes by the losses of training"),
        (
            {"strategy": "group_balanced"},
            "strategy 'group_balanced' draws as many of each group, and group_column",
        ),
        ({"strategy": "jtt", "num_loops": 1}, "strategy 'jtt' trains on all, and then .* needs at least 2 loops"),
        ({"strategy": "jtt", "single_run": True}, "strategy 'jtt' trains on all, and then .* and single_run off"),
        ({"jtt_upweight": 0.5}, "jtt_upweight is 0.5; it must be at least 1"),
        ({"jtt_upweight": math.inf}, "jtt_upweight is inf; it must be at least 1 and finite"),
        ({"group_column": "kind"}, "group_column is 'kind', and strategy 'balanced' must not see the groups"),
        (
            {"group_column": "kind", "strategy": min},
            "group_column is 'kind', and strategy <built-in function min> ",
        ),
        ({"ignore_data_skip": True}, "ignore_data_skip does not go with VeCAF"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy=.*group_by_length.* does not go"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy=.*sequential.* does not go"),
    ],
    ids=lambda case: " ".join(f"{k}={v}" for k, v in case.items()) if isinstance(case, dict) else "",
)
def test_a_value_without_meaning_is_refused_by_its_name(make, options, named):
    with pytest.raises(ValueError, match=named):
        make(**options)


@every_case(
    "options",
    [
        {"selection_fraction": 1.0},
        {"selection_fraction": 1e-6},
        {"scoring_fraction": 1.0, "rescore": "sampled"},
        {"scoring_fraction": 1e-6, "rescore": "stale"},
        {"scoring_image_size": 1},
        {"num_loops": 5, "max_steps": 4},
        {"num_loops": 1},
        {"selection_steps": 0},
        {"diversity_weight": 0.0},
        {"train_sampling_strategy": "random"},
    ],
)
def test_values_at_their_bounds_are_taken(make, options):
    for name, value in options.items():
        assert getattr(make(**options), name) == value


# --- The budget ---


@every_case(
    ("options", "pool_size", "budget"),
    [
        ({}, 1000, 100),
        ({}, 3, 1),
        ({"selection_fraction": 0.05}, 1010, 50),
        ({"selection_fraction": 1.0}, 7, 7),
        ({"selection_budget": 7}, 7, 7),
        ({"selection_budget": 1}, 10**6, 1),
    ],
)
def test_budget(make, options, pool_size, budget):
    assert make(**options).budget(pool_size) == budget


def test_a_budget_above_the_pool(make):
    with pytest.raises(ValueError, match="selection_budget is 8, more than the pool's 7 samples"):
        make(selection_budget=8).budget(7)


@pytest.mark.parametrize("fraction", [0.05, 0.1])
def test_a_part_that_leaves_no_choice(make, fraction):
    options = {"strategy": "ods", "rescore": "sampled", "scoring_fraction": fraction, "selection_budget": 10}
    message = rf"scoring_fraction is {fraction}, with rescore='sampled' .* of 100 samples, and the budget .* is 10: all"
    with pytest.raises(ValueError, match=message):
        make(**options).check_part_scored(100)
    make(**options | {"strategy": "random"}).check_part_scored(100)
    make(**options | {"rescore": "stale"}).check_part_scored(100)
    make(**options | {"scoring_fraction": 0.11}).check_part_scored(100)


def test_the_default_part_leaves_no_choice_to_a_larger_budget(make):
    with pytest.raises(ValueError, match=r"scoring_fraction is 0.25, .* 25 of 100 samples, .* is 30: all"):
        make(strategy="ods", rescore="sampled", selection_fraction=0.3).check_part_scored(100)


@pytest.mark.parametrize("strategy", ["rho_loss", "learn_loss", "ta_vaal"])
def test_a_strategy_with_candidates_of_its_own_does_not_heed_how_the_pool_is_scored(make, strategy):
    plain = make(strategy=strategy)
    for options in (
        {"rescore": "sampled", "selection_fraction": 0.3},
        {"rescore": "stale", "scoring_fraction": 0.5},
        {"rescore": "proxy"},
        {"scoring_fraction": 0.5},
    ):
        made = make(strategy=strategy, **options)
        made.check_part_scored(100)
        assert made.identity() == plain.identity()
        assert made.scoring_way == ("sampled", None)
    assert make(strategy=strategy, rescore="stale", scoring_image_size=112).scoring_image_size == 112


# --- In and out ---


def test_output_dir_may_be_positional(tmp_path):
    assert VeCAFArguments(str(tmp_path)).output_dir == str(tmp_path)


# Options that mean something beside others only.
NEEDED = {
    "scoring_fraction": {"rescore": "sampled"},
    "group_column": {"strategy": "group_balanced"},
    "select_for": {"strategy": "ods"},
}


@every_case("field", OURS, ids=lambda field: field.name)
def test_every_option_goes_through_the_command_line(tmp_path, field):
    others = {
        "strategy": "random",
        "loss_weighting": "clipped",
        "allocation": "global",
        "ensemble": "debias",
        "centroid_start": "weighted",
        "score_cache": "folder",
        "half_embeddings": True,
        "scoring_bf16": True,
        "head": "classifier.1",
        "label_column": "kind",
        "jtt_restart": False,
        "group_column": "kind",
        "select_for": ["snow"],
        "selection_fraction": 0.25,
        "selection_budget": 12,
        "rescore": "stale",
        "scoring_fraction": 0.5,
        "scoring_image_size": 112,
        "scoring_batch_size": 7,
        "single_run": True,
        "on_bad_sample": "skip",
        "random_fraction": 0.25,
        "class_balance": 0.25,
        "num_loops": 6,
        "trainer_loss_scale": True,
        "correct_class_shares": True,
    }
    value = others[field.name] if field.name in others else field.default * 2
    assert value != field.default
    command = ["--output_dir", str(tmp_path), "--use_cpu", "--report_to", "none", f"--{field.name}"]
    command += value if isinstance(value, list) else [str(value)]
    needed = NEEDED.get(field.name, {})
    command += [word for name, given in needed.items() for word in (f"--{name}", given)]
    (parsed,) = HfArgumentParser(VeCAFArguments).parse_args_into_dataclasses(command)
    found = getattr(parsed, field.name)
    assert found == value and type(found) is type(value)
    for other in OURS:
        assert other.name == field.name or getattr(parsed, other.name) == needed.get(other.name, other.default)


def test_to_write_down_the_default_part_is_no_other_run(make):
    silent, written = make(rescore="stale"), make(rescore="stale", scoring_fraction=DEFAULT_SCORING_FRACTION)
    assert silent.identity() == written.identity() != make(rescore="stale", scoring_fraction=0.3).identity()
    assert make().identity()["scoring_fraction"] is None


def test_the_command_lines_help_can_be_printed(capsys):
    with pytest.raises(SystemExit):
        HfArgumentParser(VeCAFArguments).parse_args(["--help"])
    printed = capsys.readouterr().out
    assert all(f"--{field.name}" in printed for field in OURS)


def test_a_dict_round_trip(make):
    made = make(strategy="balanced", selection_budget=5, num_loops=2)
    (again,) = HfArgumentParser(VeCAFArguments).parse_dict(made.to_dict(), allow_extra_keys=True)
    for field in OURS:
        assert getattr(again, field.name) == getattr(made, field.name)


def by_index(candidates, budget, options, generator):
    return candidates.indices[:budget]


@pytest.mark.parametrize("option", ["strategy", "loss_weighting"])
def test_a_callable_is_taken_and_written_by_its_name(make, tmp_path, option):
    made = make(**{option: lambda *arguments: arguments[0]})
    assert callable(getattr(made, option))
    name = made.to_dict()[option]
    assert "lambda" in name
    assert json.loads(made.to_json_string())[option] == name
    torch.save(made, tmp_path / "training_args.bin")
    loaded = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert getattr(loaded, option) == name and loaded.num_loops == made.num_loops
    assert getattr(pickle.loads(pickle.dumps(made)), option) == name
    # Writing it changed nothing.
    assert callable(getattr(made, option))


class Stateful:
    def __call__(self, candidates, budget, options, generator):
        return candidates.indices[:budget]


def test_an_object_is_written_by_its_class_the_same_in_every_run(make):
    assert (
        make(strategy=Stateful()).to_dict()["strategy"] == make(strategy=Stateful()).to_dict()["strategy"] == "Stateful"
    )


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "replace": lambda made: dataclasses.replace(made, num_loops=2),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_has_the_function_and_the_token(make, copied):
    made = make(strategy=lambda *arguments: arguments[0], loss_weighting=len, hub_token=TOKEN, num_loops=3)
    assert made.device.type == "cpu"  # Kept, once asked for.
    twin = copied(made)
    assert type(twin) is VeCAFArguments and twin is not made
    assert twin.strategy is made.strategy and twin.loss_weighting is len and twin.hub_token == TOKEN
    assert twin.device == made.device
    twin.num_loops = 7
    assert made.num_loops == 3


def test_a_deep_copy_shares_nothing_that_changes(make):
    made = make(strategy=Stateful(), lr_scheduler_kwargs={"nested": [1]})
    twin = copy.deepcopy(made)
    twin.lr_scheduler_kwargs["nested"].append(2)
    twin.strategy.state = 1
    assert made.lr_scheduler_kwargs == {"nested": [1]} and not hasattr(made.strategy, "state")


TOKEN = "hf_NobodyMayReadThis"


def test_no_token_in_any_form_but_the_field(make, tmp_path):
    made = make(hub_token=TOKEN)
    assert made.hub_token == TOKEN
    made.push_to_hub_token = TOKEN  # Of older versions.
    torch.save(made, tmp_path / "training_args.bin")
    assert TOKEN.encode() not in (tmp_path / "training_args.bin").read_bytes()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert TOKEN.encode() not in pickle.dumps(made, protocol)
    loaded = pickle.loads(pickle.dumps(made))
    assert loaded.hub_token is None and loaded.num_loops == made.num_loops
    for text in (repr(made), str(made), f"{made}", made.to_json_string(), str(made.to_sanitized_dict())):
        assert TOKEN not in text and "num_loops" in text
    assert made.hub_token == TOKEN


def test_a_function_is_written_by_its_name(make):
    assert make(strategy=by_index).to_dict()["strategy"] == "by_index"
    assert json.loads(make(strategy=by_index).to_json_string())["strategy"] == "by_index"


def test_each_way_to_score_is_an_option_and_each_option_a_way() -> None:
    assert RESCORE.keys() == RESCORING.keys()
