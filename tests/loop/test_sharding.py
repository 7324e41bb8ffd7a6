"""Which ways of FSDP and DeepSpeed go with a run, and what is said of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn

from vecaf_hf.loop.sharding import check_model, check_sharding, check_strategy, refuse_sharding, sharding_of

GOES: dict[str, Any] = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"}


def accelerator(**plugin: Any) -> Any:
    given = {"fsdp_plugin": FullyShardedDataParallelPlugin(**{**GOES, **plugin})} if plugin else {}
    return SimpleNamespace(state=SimpleNamespace(**given))


def deepspeed(stage: int, **config: Any) -> Any:
    plugin = SimpleNamespace(zero_stage=stage, deepspeed_config=config)
    return SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin), mixed_precision="bf16")


def arguments(**values: Any) -> Any:
    engines = {"fsdp": None, "deepspeed": None, "auto_find_batch_size": False, "torch_compile": False}
    return SimpleNamespace(**{**engines, "push_to_hub": False, "hub_strategy": "every_save", **values})


def test_fsdp2_with_whole_checkpoints_goes() -> None:
    check_sharding(arguments(), accelerator(**GOES))
    assert sharding_of(accelerator(**GOES)) == {"fsdp": True}


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_deepspeed_that_leaves_parameters_whole_goes(stage: int) -> None:
    check_sharding(arguments(hub_strategy="checkpoint"), deepspeed(stage))
    check_sharding(arguments(push_to_hub=True), deepspeed(stage))
    told = {"zero_stage": stage, "zero_precision": "bf16", "zero_schedules": False}
    assert sharding_of(deepspeed(stage)) == told
    assert sharding_of(deepspeed(stage, scheduler={})) == {**told, "zero_schedules": True}


@pytest.mark.parametrize(
    ("stage", "values", "said"),
    [
        (3, {}, "set zero_stage 2, or share out parameters with FSDP2"),
        (2, {"push_to_hub": True, "hub_strategy": "checkpoint"}, "set hub_strategy='every_save' or 'end'"),
        (2, {"push_to_hub": True, "hub_strategy": "all_checkpoints"}, "set hub_strategy='every_save' or 'end'"),
        (1, {"auto_find_batch_size": True}, "auto_find_batch_size is not supported with DeepSpeed"),
        (1, {"torch_compile": True}, "torch_compile is not supported with DeepSpeed"),
    ],
)
def test_of_deepspeed_what_does_not_go_says_what_does(stage: int, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_sharding(arguments(**values), deepspeed(stage))


@pytest.mark.parametrize("engine", [accelerator(**GOES), deepspeed(1)])
def test_a_learner_is_refused_where_the_optimizer_is_shared_out(engine: Any) -> None:
    learns = SimpleNamespace(strategy="learn_loss", jtt_restart=True)
    check_strategy(learns, accelerator())
    with pytest.raises(ValueError, match="choose a strategy without a learner"):
        check_strategy(learns, engine)


def test_first_weights_are_given_back_to_no_model_that_deepspeed_trains() -> None:
    check_strategy(SimpleNamespace(strategy="jtt", jtt_restart=True), accelerator(**GOES))
    check_strategy(SimpleNamespace(strategy="jtt", jtt_restart=False), deepspeed(2))
    with pytest.raises(ValueError, match="set jtt_restart=False"):
        check_strategy(SimpleNamespace(strategy="jtt", jtt_restart=True), deepspeed(2))


@pytest.mark.parametrize(
    ("plugin", "values", "said"),
    [
        ({"fsdp_version": 1}, {}, "use FSDP2"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, {}, "SHARDED_STATE_DICT.*set FULL_STATE_DICT"),
        (GOES, {"auto_find_batch_size": True}, "auto_find_batch_size is not supported with FSDP"),
        (GOES, {"torch_compile": True}, "torch_compile is not supported with FSDP"),
    ],
)
def test_what_does_not_go_says_what_does(plugin: dict[str, Any], values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_sharding(arguments(**values), accelerator(**plugin))


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_that_accelerate_leaves_it_off_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    check_sharding(arguments(), accelerator())
    assert not caplog.text
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    check_sharding(arguments(), accelerator())
    assert f"{name} was configured, and accelerate leaves it off" in caplog.text


class SharedOut(nn.Linear):
    """As a module is after `fully_shard`, which needs processes."""

    def set_reshard_after_forward(self, reshard: bool) -> None: ...


def test_a_model_that_was_shared_out_before_is_refused() -> None:
    check_model(nn.Linear(1, 1), accelerator())
    check_model(SharedOut(1, 1), accelerator(**GOES))
    with pytest.raises(ValueError, match=r"shared out already.*load it whole"):
        check_model(nn.Sequential(SharedOut(1, 1)), accelerator())


def test_what_copies_the_model_is_refused() -> None:
    refuse_sharding(accelerator(), "inspect()")
    for engine in (accelerator(**GOES), deepspeed(1)):
        with pytest.raises(ValueError, match=r"inspect\(\) is not supported with FSDP or DeepSpeed"):
            refuse_sharding(engine, "inspect()")
