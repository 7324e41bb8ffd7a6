"""Every strategy by name, and `select`, which runs one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from vecaf_hf.learners import TAVAAL, Learner, LearnLoss
from vecaf_hf.selection.alfa_mix import alfa_mix
from vecaf_hf.selection.badge import badge
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.figures import figures_of
from vecaf_hf.selection.full import full
from vecaf_hf.selection.group_balanced import group_balanced
from vecaf_hf.selection.infobatch import infobatch
from vecaf_hf.selection.jtt import jtt
from vecaf_hf.selection.k_center import k_center
from vecaf_hf.selection.learned import learn_loss, ta_vaal
from vecaf_hf.selection.loss_balanced import loss_balanced
from vecaf_hf.selection.loss_sampling import loss_sampling
from vecaf_hf.selection.ods import activeft, ods
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.random import balanced, random
from vecaf_hf.selection.rho_loss import rho_loss
from vecaf_hf.selection.selection import Selection
from vecaf_hf.selection.topk_loss import topk_loss
from vecaf_hf.selection.trimmed import trimmed
from vecaf_hf.selection.uncertainty import el2n, entropy, margin
from vecaf_hf.validation import check_choice, check_options, whole

Select = Callable[[Candidates, int, SelectionOptions, torch.Generator], "Selection | Tensor"]


@dataclass(frozen=True)
class Strategy:
    """A way to select, and which fields of `Candidates` it needs.

    A strategy that needs nothing that a forward pass gives costs none over the pool; one that takes the whole pool, or
    sets its selection's size itself, ignores the budget; one that says how many candidates it wants per selected sample
    is given a fresh random set of that many, and the others are not scored; one that has a learner is given its scores
    from the second loop on: before that the learner has learned nothing, and the selection is random; one that needs
    `mistaken` is given it in the second part of the run (`second_training`): before that the selection is `full`.

    Args:
        select: (candidates, budget, options, generator) -> a `Selection`, or the chosen indices: LongTensor [K].
        needs: Fields of `Candidates` without which it cannot select.
        takes_all: Whether it takes the whole pool.
        sets_size: Whether it decides how many it takes.
        allocates: Whether it heeds the option `allocation`.
        by_class: Whether classes have shares, by the option `class_balance`; one that allocates has them by class.
        weighs: Whether it can give weights: heeds the option `sample_weights`, or is a callable.
        candidates_per_sample: How many candidates it wants per selected sample; None for all of the pool.
        wants: Fields of `Candidates` that it uses where there are any.
        learner: Learns in training what gives it `learned_scores`; None if it goes by none.
    """

    select: Select
    needs: frozenset[str]
    takes_all: bool = False
    sets_size: bool = False
    allocates: bool = False
    by_class: bool = False
    weighs: bool = False
    candidates_per_sample: int | None = None
    wants: frozenset[str] = frozenset()
    learner: type[Learner] | None = None

    @property
    def reads(self) -> frozenset[str]:
        """Fields of `Candidates` that it looks at."""
        return self.needs | self.wants

    @property
    def needs_forward(self) -> bool:
        """Whether these take a forward pass over the candidates in every loop."""
        return bool(self.reads & {"embeddings", "losses", "logits", "learned_scores"})

    def shares_by_class(self, options: SelectionOptions) -> bool:
        """Whether it heeds the option `class_balance`."""
        return self.by_class or (self.allocates and options.allocation == "class")

    @property
    def summary(self) -> str:
        """One line: what it selects."""
        return (self.select.__doc__ or "").strip().split("\n")[0]


# RHO-LOSS selects a tenth of each large batch, LearnLoss and TA-VAAL 1,000 of 10,000 random samples.
CANDIDATES_PER_SAMPLE = 10

STRATEGIES: dict[str, Strategy] = {
    "ods": Strategy(
        ods, frozenset({"embeddings", "losses"}), allocates=True, weighs=True, wants=frozenset({"relevance"})
    ),
    "loss_balanced": Strategy(loss_balanced, frozenset({"training_losses"}), wants=frozenset({"labels"})),
    "trimmed": Strategy(trimmed, frozenset({"training_losses", "progress", "labels"}), by_class=True),
    "activeft": Strategy(activeft, frozenset({"embeddings"}), weighs=True),
    "random": Strategy(random, frozenset(), wants=frozenset({"relevance"})),
    "balanced": Strategy(balanced, frozenset({"labels"}), by_class=True, wants=frozenset({"relevance"})),
    "topk_loss": Strategy(topk_loss, frozenset({"losses"})),
    "loss_sampling": Strategy(loss_sampling, frozenset({"losses"}), wants=frozenset({"relevance"})),
    "margin": Strategy(margin, frozenset({"logits"})),
    "entropy": Strategy(entropy, frozenset({"logits"})),
    "el2n": Strategy(el2n, frozenset({"logits", "labels"})),
    "k_center": Strategy(k_center, frozenset({"embeddings"})),
    "badge": Strategy(badge, frozenset({"embeddings", "logits"})),
    "alfa_mix": Strategy(alfa_mix, frozenset({"embeddings", "labels", "head"})),
    "rho_loss": Strategy(rho_loss, frozenset({"losses", "irreducible"}), candidates_per_sample=CANDIDATES_PER_SAMPLE),
    "infobatch": Strategy(infobatch, frozenset({"training_losses", "progress"}), sets_size=True),
    "jtt": Strategy(jtt, frozenset({"mistaken"})),
    "learn_loss": Strategy(
        learn_loss, frozenset({"learned_scores"}), candidates_per_sample=CANDIDATES_PER_SAMPLE, learner=LearnLoss
    ),
    "ta_vaal": Strategy(
        ta_vaal, frozenset({"learned_scores"}), candidates_per_sample=CANDIDATES_PER_SAMPLE, learner=TAVAAL
    ),
    "full": Strategy(full, frozenset(), takes_all=True),
    "group_balanced": Strategy(group_balanced, frozenset({"labels", "groups"}), by_class=True),
}


def find_strategy(strategy: str | Select) -> Strategy:
    """The registered strategy of that name, or a strategy around a callable, which is given all scores.

    Args:
        strategy: A name in `STRATEGIES`, or (candidates, budget, options, generator) -> `Selection` or indices.

    Raises:
        ValueError: No strategy has that name.
    """
    check_choice("strategy", strategy, STRATEGIES)
    if callable(strategy):
        # Whether it weighs, its selection will show.
        scores = frozenset({"embeddings", "losses", "labels", "logits", "relevance"})
        return Strategy(strategy, frozenset(), wants=scores, weighs=True)
    return STRATEGIES[strategy]


def check_class_balance(options: SelectionOptions) -> None:
    """Raise a ValueError if `class_balance` is set where nothing heeds it; a callable may."""
    strategy, balance = find_strategy(options.strategy), options.class_balance
    if balance == 1 or callable(options.strategy) or strategy.shares_by_class(options):
        return
    if strategy.allocates:
        raise ValueError(
            f"class_balance is {balance}, and allocation={options.allocation!r} gives classes no shares by their "
            "sizes: set allocation='class', or leave class_balance at 1"
        )
    heeding = [name for name, one in STRATEGIES.items() if one.by_class or one.allocates]
    raise ValueError(
        f"class_balance is {balance}, and strategy {options.strategy!r} gives classes no shares by their sizes: choose "
        f"one of {', '.join(sorted(heeding))}, or leave class_balance at 1"
    )


def run_strategy(
    strategy: Strategy, candidates: Candidates, budget: int, options: SelectionOptions, seed: int
) -> Selection:
    """Select `budget` of the candidates, deterministically by seed and whatever order the candidates are in.

    Args:
        strategy: As `find_strategy` gives it.
        candidates: What to choose from, with the fields that the strategy needs.
        budget: How many to choose, 1 to M; not heeded where the strategy takes all or sets the size itself.
        options: Of the selection; its `strategy` is the name that errors say.
        seed: Of all that the strategy draws.

    Returns:
        A `Selection` of positions in the pool: `indices`, LongTensor [K], among the candidates'.

    Raises:
        ValueError: The budget does not fit, a field that the strategy needs is missing, or the strategy
            returned another number of samples or samples that are no candidates.
    """
    missing = sorted(name for name in strategy.needs if getattr(candidates, name) is None)
    if missing:
        raise ValueError(f"strategy {options.strategy!r} needs {' and '.join(missing)}, which were not given")
    ignored = strategy.takes_all or strategy.sets_size
    expected = len(candidates) if ignored else budget
    if not 1 <= expected <= len(candidates):
        raise ValueError(f"cannot select {budget} distinct samples out of {len(candidates)}: lower the budget")
    at_random = 0 if ignored else min(round(options.random_fraction * budget), budget - 1)
    generator = torch.Generator().manual_seed(seed)
    candidates = candidates.in_pool_order()
    selection = _selection(strategy.select(candidates, budget - at_random, options, generator), options.strategy)
    due = expected - at_random
    if len(selection) != due and not strategy.sets_size:
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
    rest = replace(rest, relevance=None)
    draw = random if rest.classes is None else balanced
    more = draw(rest, count, options, generator)
    similarity = selection.centroid_similarity
    if similarity is not None:
        similarity = torch.cat([similarity, similarity.new_full((len(more),), torch.nan)])
    return replace(selection, indices=torch.cat([selection.indices, more.indices]), centroid_similarity=similarity)


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
