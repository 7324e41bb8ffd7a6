"""What a recipe's options on captions and prompts leave unread: the pool `domains` is told by its captions alone."""

from __future__ import annotations

from typing import Any

import pytest
from options import PoolArguments, parse

from vecaf_hf.cli.terminal import UsageError

WARNING = "the pool domains tells snow and fog in its column 'caption' alone, and captions is 'a photo of a {label}'"


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, True),
        ({"captions": "caption"}, False),
        # It sees the images.
        ({"captions": "auto", "captioner": "a/captioner"}, False),
        ({"text_encoder": "none"}, False),
        ({"pool": "clean"}, False),
    ],
)
def test_captions_that_say_no_domain(options: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    PoolArguments(**{"pool": "domains", **options})
    assert (WARNING in caplog.text) == warned
    assert warned or not caplog.text


def test_a_prompt_that_no_text_encoder_reads_is_refused() -> None:
    with pytest.raises(UsageError, match=r"domain_prompt is given, and text_encoder is none.* leave domain_prompt out"):
        parse({}, ["--output_dir", "runs", "--text_encoder", "none", "--domain_prompt", "It's a snowy day."])
