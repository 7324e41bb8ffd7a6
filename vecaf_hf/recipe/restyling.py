"""A run's pool with restyled images beside its own, and so CLIPstyler as a method: finetuning is plain, on both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from datasets import Dataset, concatenate_datasets

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.cost import CostMeter
from vecaf_hf.recipe.local_models import resolve_model
from vecaf_hf.styling import StyleOptions, restyled, train_style
from vecaf_hf.validation import check_choice

EXAMPLE = '{"prompt": "It\'s a snowy day."}'


def read_style(given: Mapping[str, Any] | str) -> dict[str, Any]:
    """The option `restyle`, checked: fields of StyleOptions, the prompt among them.

    Args:
        given: They, or JSON of them.

    Raises:
        ValueError: It is no mapping, has what is no field, lacks the prompt, or a value is out of its range.
    """
    values: Any = given
    if isinstance(given, str):
        try:
            values = json.loads(given)
        except json.JSONDecodeError as error:
            raise ValueError(f"restyle is {given!r}, which is no JSON ({error}); give such as {EXAMPLE}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"restyle is {given!r}; it must be a mapping of options, such as {EXAMPLE}")
    for name in values:
        check_choice("an option in restyle", name, [one.name for one in fields(StyleOptions)], or_callable=False)
    if "prompt" not in values:
        raise ValueError(f"restyle has no prompt, the style to restyle by; give such as {EXAMPLE}")
    with _naming_the_option():
        StyleOptions(**values)
    return dict(values)


def with_restyled(
    pool: Dataset, image_column: str, style: Mapping[str, Any], args: VeCAFArguments, meter: CostMeter
) -> Dataset:
    """The pool, and after it all of its samples again with restyled images; every process makes it for itself.

    The network is trained and the images are restyled anew in each run, whatever earlier ones have kept: it is counted.

    Args:
        pool: Its images are those that the network learns from.
        image_column: Where they are.
        style: As `read_style` gives it; without a seed, the run's is taken. `clip` and `content_model` may be
            `pypi:PACKAGE`.
        args: The run's seed, device and whether progress is shown.
        meter: Counts the work, as auxiliary; that of the text encoder, as text.

    Returns:
        Twice the pool's size, with its columns.

    Raises:
        ValueError: A model cannot be loaded or does not fit, an image cannot be read, or the loss is not finite.
    """
    hidden = bool(args.disable_tqdm) or args.local_process_index > 0
    with _naming_the_option():
        options = StyleOptions(**{"seed": args.seed, **style})
        clip, content_model = resolve_model(options.clip), resolve_model(options.content_model)
        options = replace(options, clip=clip, content_model=content_model)
        network = train_style(pool, image_column, options, meter, args.device, hidden)
        twins = restyled(pool, image_column, network, meter, disable_tqdm=hidden, reads_kept=False)
    return concatenate_datasets([pool, twins])


@contextmanager
def _naming_the_option() -> Iterator[None]:
    """Errors inside the block say that they are about `restyle`, whose options have names that others have too."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise ValueError(f"restyle: {error}") from error
