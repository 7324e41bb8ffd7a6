"""Which ways of FSDP and DeepSpeed go with a run, and what is said of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn

from vecaf_hf.loop.sharding import check_model, check_sharding, refuse_sharding, sharding_of

GOES: dict[str, Any] = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"}


def accelerator(**plugin: Any) -> Any:
    given = {"fsdp_plugin": FullyShardedDataParallelPlugin(**{**GOES, **plugin})} if plugin else {}
    return SimpleNamespace(state=SimpleNamespace(**given))


def zero(stage: int) -> Any:
    """An accelerator with DeepSpeed."""
    return SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage)))


def arguments(**values: Any) -> Any:
    plain = {"fsdp": None, "deepspeed": None, "auto_find_batch_size": False, "torch_compile": False}
    return SimpleNamespace(**{**plain, "push_to_hub": False, "hub_strategy": "every_save", **values})


def test_fsdp2_with_whole_checkpoints_goes() -> None:
    check_sharding(arguments(), accelerator(**GOES))


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


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(
    "values",
    [{}, {"push_to_hub": True}, {"hub_strategy": "checkpoint"}, {"push_to_hub": True, "hub_strategy": "end"}],
    ids=["plain", "pushes", "would push checkpoints", "pushes at the end"],
)
def test_zero_1_and_2_go_where_no_state_is_pushed(stage: int, values: dict[str, Any]) -> None:
    check_sharding(arguments(**values), zero(stage))


@pytest.mark.parametrize(
    ("stage", "values", "said"),
    [
        (3, {}, "ZeRO-3.*set zero_stage 2"),
        (2, {"push_to_hub": True, "hub_strategy": "checkpoint"}, "hub_strategy='checkpoint' pushes"),
        (2, {"push_to_hub": True, "hub_strategy": "all_checkpoints"}, "hub_strategy='all_checkpoints' pushes"),
        (1, {"auto_find_batch_size": True}, "auto_find_batch_size is not supported with DeepSpeed"),
        (1, {"torch_compile": True}, "torch_compile is not supported with DeepSpeed"),
    ],
)
def test_what_zero_does_not_go_with_is_refused(stage: int, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_sharding(arguments(**values), zero(stage))


def test_a_resumed_run_must_share_the_way_of_sharding() -> None:
    found = [sharding_of(one) for one in (accelerator(), accelerator(**GOES), zero(1), zero(2))]
    assert found == [{}, {"fsdp": True}, {"zero_stage": 1}, {"zero_stage": 2}]


def test_that_accelerate_leaves_it_off_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_sharding(arguments(), accelerator())
    assert not caplog.text
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_sharding(arguments(), accelerator())
    assert "each process has a whole model" in caplog.text


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
    for one in (accelerator(**GOES), zero(2)):
        with pytest.raises(ValueError, match=r"inspect\(\) is not supported with FSDP or DeepSpeed"):
            refuse_sharding(one, "inspect()")
