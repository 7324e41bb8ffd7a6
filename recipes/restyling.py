"""A run's pool with restyled images beside its own, and so CLIPstyler as a method: finetuning is plain, on both.

The main process alone trains the style network and restyles the pool with it. Network and cost are kept in the run's
`output_dir`, the images in the cache of `datasets`. The other processes, and a run that is started again with the same
style and pool, take what is kept: trained again, on a GPU or by another number of threads, the network would be another
one, and the run could not go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from mappings import read_mapping
from styling import StyleNetwork, StyleOptions, restyled, train_style

from vecaf_hf.agreement import decided_by_main
from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.cli.local_models import resolve_model
from vecaf_hf.cost import CostMeter
from vecaf_hf.loop.state import pool_fingerprint

EXAMPLE = '{"prompt": "It\'s a snowy day."}'
# What is kept, in a folder of `output_dir`: weights beside the model would be pushed with it.
FOLDER, NETWORK_FILE, JSON_FILE = "restyling", "network.safetensors", "restyling.json"


def read_style(given: Mapping[str, Any] | str) -> dict[str, Any]:
    """The option `restyle`, checked: fields of StyleOptions, the prompt among them.

    Args:
        given: They, or JSON of them.

    Raises:
        ValueError: It is no mapping, has what is no field, lacks the prompt, or a value is out of its range.
    """
    values = read_mapping("restyle", given, [one.name for one in fields(StyleOptions)], EXAMPLE)
    if "prompt" not in values:
        raise ValueError(f"restyle has no prompt, the style to restyle by; give such as {EXAMPLE}")
    with _naming_the_option():
        StyleOptions(**values)
    return values


def with_restyled(
    pool: Dataset, image_column: str, style: Mapping[str, Any], args: VeCAFArguments
) -> tuple[Dataset, CostMeter]:
    """The pool, and after it all of its samples again with restyled images; and what that has cost, the first time.

    The other processes wait for the main one: for a pool that takes it longer than `ddp_timeout`, set that higher.

    Args:
        pool: Its images are those that the network learns from.
        image_column: Where they are.
        style: As `read_style` gives it; without a seed, the run's is taken. `clip` and `content_model` may be
            `pypi:PACKAGE`.
        args: The run's seed, folder, device and whether progress is shown.

    Returns:
        Twice the pool's size, with its columns; and the work of it all, as auxiliary, that of the text encoder as text.

    Raises:
        ValueError: A model cannot be loaded or does not fit, an image cannot be read, or the loss is not finite.
        RuntimeError: In other processes than the main one, which has failed.
    """
    with _naming_the_option():
        options = StyleOptions(**{"seed": args.seed, **style})
        # As it was given: where a package lies is the machine's.
        known_by = {"options": asdict(options), "image_column": image_column, "pool": pool_fingerprint(pool, None)}
        network, work = decided_by_main(
            args.distributed_state,
            lambda: _kept(args, known_by) or _made(pool, image_column, options, args, known_by),
        )
        # From the cache, unless this machine has another one than the main process.
        with args.main_process_first(desc="restyling images"):
            twins = restyled(pool, image_column, network.to(args.device), disable_tqdm=_hides_progress(args))
    return concatenate_datasets([pool, twins]), work


def _made(
    pool: Dataset, image_column: str, options: StyleOptions, args: VeCAFArguments, known_by: Mapping[str, Any]
) -> tuple[StyleNetwork, CostMeter]:
    """A network for this pool, on the CPU, and the work of training it and of restyling the pool; both are kept."""
    work, hidden = CostMeter(), _hides_progress(args)
    clip, content_model = resolve_model(options.clip), resolve_model(options.content_model)
    options = replace(options, clip=clip, content_model=content_model)
    network = train_style(pool, image_column, options, work, args.device, hidden)
    # All of them, whatever another run's network has left in the cache: it is counted.
    restyled(pool, image_column, network, work, disable_tqdm=hidden, load_from_cache_file=False)
    folder = _folder(args)
    folder.mkdir(parents=True, exist_ok=True)
    # Written last: where it is, the weights are whole and those that it tells of.
    (folder / JSON_FILE).unlink(missing_ok=True)
    network.save(folder / NETWORK_FILE)
    unfinished = folder / f"{JSON_FILE}.tmp"
    unfinished.write_text(json.dumps({**known_by, "cost": work.state_dict()}))
    os.replace(unfinished, folder / JSON_FILE)
    return network.cpu(), work


def _kept(args: VeCAFArguments, known_by: Mapping[str, Any]) -> tuple[StyleNetwork, CostMeter] | None:
    """What an earlier start of the run has made; None where there is nothing, or it is of another style or pool."""
    folder = _folder(args)
    if not (folder / JSON_FILE).is_file():
        return None
    kept = json.loads((folder / JSON_FILE).read_text())
    work = CostMeter()
    work.load_state_dict(kept.pop("cost"))
    # In JSON a tuple is a list.
    if kept != json.loads(json.dumps(known_by)):
        return None
    return StyleNetwork.load(folder / NETWORK_FILE), work


def _folder(args: VeCAFArguments) -> Path:
    return Path(str(args.output_dir), FOLDER)


def _hides_progress(args: VeCAFArguments) -> bool:
    return bool(args.disable_tqdm) or args.local_process_index > 0


@contextmanager
def _naming_the_option() -> Iterator[None]:
    """Errors inside the block say that they are about `restyle`, whose options have names that others have too."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise ValueError(f"restyle: {error}") from error
