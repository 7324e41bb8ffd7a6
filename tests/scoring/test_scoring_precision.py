"""Scoring in bfloat16 beside a training in another precision."""

from types import SimpleNamespace

import pytest
import torch
from every_case import every_case

from vecaf_hf.scoring import precision
from vecaf_hf.scoring.precision import check_bf16


def accelerator(mixed_precision="no", device="cpu"):
    return SimpleNamespace(mixed_precision=mixed_precision, device=torch.device(device))


@every_case("mixed", ["fp16", "fp8"])
def test_a_precision_that_would_act_is_refused(mixed):
    with pytest.raises(ValueError, match=f"scoring_bf16 does not go with mixed precision {mixed}.*train in bf16"):
        check_bf16(accelerator(mixed))


@every_case(("device", "who"), [("cpu", "processor"), ("cuda", "GPU")])
@every_case("native", [True, False])
def test_what_takes_longer_is_told(device, who, native, monkeypatch, caplog):
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    caplog.clear()
    check_bf16(accelerator("bf16", device))
    assert [f"this {who} has no instructions for bfloat16" in text for text in caplog.messages] == [True] * (not native)
