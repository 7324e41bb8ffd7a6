"""Running a strategy: on candidates (`run_strategy`), or on arrays alone (`select`)."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from vecaf_hf.selection.allocation import ClassShares
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.drawing import drawn, drawn_by_class
from vecaf_hf.selection.figures import figures_of
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import Select, Strategy, check_class_balance, find_strategy
from vecaf_hf.selection.selection import Selection
from vecaf_hf.validation import check_options, whole


def run_strategy(
    strategy: Strategy, candidates: Candidates, budget: int, options: SelectionOptions, seed: int
) -> Selection:
    """Select `budget` of the candidates, deterministically by seed and whatever order the candidates are in.

    Args:
        strategy: As `find_strategy` gives it.
        candidates: What to choose from, with the fields that the strategy needs.
        budget: How many to choose, 1 to M; ignored by a strategy of another `size`.
        options: Of the selection; its `strategy` is the name that errors say.
        seed: Of all that the strategy draws.

    Returns:
        A `Selection` of positions in the pool: `indices`, LongTensor [K], among the candidates'.

    Raises:
        ValueError: The budget does not fit, a field that the strategy needs is missing, or the strategy
            returned another number of samples or samples that are no candidates.
    """
    missing = sorted(name for name in strategy.needs if getattr(candidates, name) is None)
    if candidates.shared_embeddings is not None and "processes" in strategy.reads:
        missing = [name for name in missing if name != "embeddings"]
    if missing:
        raise ValueError(f"strategy {options.strategy!r} needs {' and '.join(missing)}, which were not given")
    ignored = strategy.size != "budget"
    expected = len(candidates) if ignored else budget
    if not 1 <= expected <= len(candidates):
        raise ValueError(f"cannot select {budget} distinct samples out of {len(candidates)}: lower the budget")
    at_random = 0 if ignored else min(round(options.random_fraction * budget), budget - 1)
    generator = torch.Generator().manual_seed(seed)
    candidates = candidates.in_pool_order()
    selection = _selection(strategy.select(candidates, budget - at_random, options, generator), options.strategy)
    due = expected - at_random
    if len(selection) != due and strategy.size != "own":
        raise ValueError(f"strategy {options.strategy!r} selected {len(selection)} samples where {due} were due")
    if not bool(torch.isin(selection.indices, candidates.indices.cpu()).all()):
        raise ValueError(f"strategy {options.strategy!r} selected samples that are not among the candidates")
    if at_random:
        selection = _with_random(selection, candidates, at_random, options, generator)
    figures = figures_of(selection, candidates)
    flops = selection.info.get("flops", 0.0) + figures.pop("flops", 0.0)
    return replace(selection, info={**selection.info, **figures} | ({"flops": flops} if flops else {}))


def _with_random(
    selection: Selection, candidates: Candidates, count: int, options: SelectionOptions, generator: torch.Generator
) -> Selection:
    """The selection, and so many random ones of the other candidates."""
    if selection.weights is not None:
        raise ValueError(
            f"strategy {options.strategy!r} gives weights, and samples drawn at random have none: leave "
            "random_fraction at 0"
        )
    rest = candidates.take(~torch.isin(candidates.indices, selection.indices.to(candidates.indices.device)))
    if rest.classes is None:
        rows = drawn(len(rest), None, count, generator)
    else:
        due = ClassShares.of(rest, options.class_balance, generator)
        rows = drawn_by_class(rest.classes, None, count, generator, due)
    more = rest.indices.cpu()[rows]
    similarity = selection.centroid_similarity
    if similarity is not None:
        similarity = torch.cat([similarity, similarity.new_full((len(more),), torch.nan)])
    return replace(selection, indices=torch.cat([selection.indices, more]), centroid_similarity=similarity)


def _selection(chosen: Any, strategy: object) -> Selection:
    if isinstance(chosen, Selection):
        return chosen
    try:
        indices = torch.as_tensor(chosen)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"strategy {strategy!r} returned a {type(chosen).__name__}; return a Selection, or the indices of the "
            "chosen candidates"
        ) from error
    return Selection(indices)


def select(
    embeddings: Tensor,
    losses: Tensor,
    *,
    budget: int,
    strategy: str | Select = "ods",
    labels: Tensor | None = None,
    logits: Tensor | None = None,
    seed: int = 0,
    **options: object,
) -> Selection:
    """Choose samples from arrays, without a Trainer.

    Args:
        embeddings: What enters the classification head; any scale. [N, d].
        losses: Finetuning loss of each sample, at least 0. [N].
        budget: How many to choose, 1 to N.
        strategy: A name in `STRATEGIES` or a callable (candidates, budget, options, generator) -> Selection.
        labels: Class of each sample, for strategies and allocations by class. LongTensor [N].
        logits: Output of the head, for strategies that compare its predictions. [N, C].
        seed: The same seed gives the same selection.
        **options: Fields of `SelectionOptions`, for example `loss_weighting="raw"`, `allocation="global"`.

    Returns:
        A `Selection` with `indices`, LongTensor [K], distinct rows of the arrays.

    Raises:
        ValueError: An array holds a NaN (the message says at which index), shapes disagree, the budget does
            not fit, or an option is not one of its choices.
    """
    own = [*signature(select).parameters][:-1]
    check_options("select", options, [*own, *SelectionOptions.__dataclass_fields__])
    chosen = SelectionOptions(strategy=strategy, **options)  # type: ignore[arg-type]
    check_class_balance(chosen)
    embeddings = _array("embeddings", embeddings)
    if labels is not None:
        labels = _array("labels", labels)
        if labels.dim() == 1 and labels.is_floating_point():
            raise ValueError(f"labels are {labels.dtype}; classes are whole numbers")
    candidates = Candidates(
        indices=torch.arange(len(embeddings)),
        embeddings=embeddings,
        losses=_array("losses", losses),
        labels=labels,
        logits=None if logits is None else _array("logits", logits),
    )
    return run_strategy(find_strategy(strategy), candidates, whole("budget", budget, 1), chosen, seed)


def _array(name: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error
