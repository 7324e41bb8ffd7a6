"""What a style may be asked for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from every_case import every_case
from styling import StyleOptions


@every_case("prompt", ["", "  \n", None, 3])
def test_a_prompt_that_is_no_text(prompt: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"prompt is {prompt!r}; it must be a text")):
        StyleOptions(prompt)


@every_case(
    ("given", "message"),
    [
        ({"source": " "}, "source is ' '; it must be a text"),
        ({"templates": "a photo of {}"}, "templates is 'a photo of {}'; it must be a list of texts"),
        ({"templates": []}, "templates is []; it must be a list of texts"),
        ({"templates": ["{}", "a photo"]}, "templates holds 'a photo', which has no {}"),
        ({"content_layers": [3]}, "content_layers holds 3; all of it must be texts"),
        ({"image_size": 15}, "image_size is 15; it must be at least 16"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"views": 1.5}, "views is 1.5; it must be a whole number of at least 1"),
        ({"learning_rate": 0}, "learning_rate is 0; it must be positive and finite"),
        ({"threshold": -1}, "threshold is -1; it must be at least 0"),
        ({"patch_weight": float("nan")}, "patch_weight is nan; it must be at least 0"),
    ],
)
def test_an_option_out_of_its_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        StyleOptions("snow", **given)


def test_the_published_weights() -> None:
    options = StyleOptions("snow")
    weights = options.direction_weight, options.patch_weight, options.content_weight, options.variation_weight
    assert weights == (500, 9000, 150, 0.002)
    assert (options.threshold, options.views, options.batch_size, options.steps) == (0.7, 16, 4, 200)
