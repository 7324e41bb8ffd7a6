"""Which ways of FSDP go with a run, and what is said of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn

from vecaf_hf.loop.sharding import check_model, check_sharding, refuse_fsdp

GOES: dict[str, Any] = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"}


def accelerator(**plugin: Any) -> Any:
    given = {"fsdp_plugin": FullyShardedDataParallelPlugin(**{**GOES, **plugin})} if plugin else {}
    return SimpleNamespace(state=SimpleNamespace(**given))


def arguments(**values: Any) -> Any:
    return SimpleNamespace(**{"fsdp": None, "auto_find_batch_size": False, "torch_compile": False, **values})


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
    refuse_fsdp(accelerator(), "inspect()")
    with pytest.raises(ValueError, match=r"inspect\(\) is not supported with FSDP"):
        refuse_fsdp(accelerator(**GOES), "inspect()")
