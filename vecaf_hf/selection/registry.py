"""Every strategy by name: `STRATEGIES`, and the decorator `strategy` that adds one.

A package adds its own by an entry point of the group `vecaf_hf.strategies`: the name -> a function with the decorator,
or a `Strategy`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, MutableMapping, Set
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.selection import Selection
from vecaf_hf.validation import check_choice, check_choices

logger = logging.getLogger(__name__)

Select = Callable[[Candidates, int, SelectionOptions, torch.Generator], "Selection | Tensor"]
Size = Literal["budget", "all", "own"]
F = TypeVar("F", bound=Select)

ENTRY_POINTS = "vecaf_hf.strategies"
FIELDS = frozenset(field.name for field in fields(Candidates))
# What a forward pass over the candidates gives.
FORWARD = frozenset({"embeddings", "losses", "logits", "learned_scores"})
# Options that only some strategies follow.
HEEDED = ("allocation", "class_balance")


@dataclass(frozen=True)
class Strategy:
    """A way to select, and what it needs.

    A strategy that reads nothing of a forward pass costs none over the pool. One that needs `learned_scores` has them
    from the second loop on: before that its learner has learned nothing, and the selection is random. One that needs
    `mistaken` has it in the second part of the run (`second_training`): before that the selection is `full`.

    Args:
        select: (candidates, budget, options, generator) -> a `Selection`, or the chosen indices: LongTensor [K].
        needs: Fields of `Candidates` without which it cannot select.
        wants: Fields of `Candidates` that it uses where there are any.
        size: How many it selects: the `budget`, `all` of the pool, or a number of its `own`.
        heeds: Those of the options `allocation` and `class_balance` that it follows.
        candidates_per_sample: How many random candidates it wants per selected sample: the others are not scored. None
            for all of the pool.
        weighs: Whether it gives samples weights.

    Raises:
        ValueError: There is no such field of `Candidates`, size or option.
    """

    select: Select
    needs: Set[str] = frozenset()
    wants: Set[str] = frozenset()
    size: Size = "budget"
    heeds: Set[str] = frozenset()
    candidates_per_sample: int | None = None
    weighs: bool = False

    def __post_init__(self) -> None:
        check_choice("size", self.size, get_args(Size), or_callable=False)
        for name, choices in (("needs", FIELDS), ("wants", FIELDS), ("heeds", HEEDED)):
            check_choices(name, getattr(self, name), sorted(choices))
            object.__setattr__(self, name, frozenset(getattr(self, name)))

    @property
    def reads(self) -> Set[str]:
        """Fields of `Candidates` that it looks at."""
        return self.needs | self.wants

    @property
    def needs_forward(self) -> bool:
        """Whether these take a forward pass over the candidates in every loop."""
        return bool(self.reads & FORWARD)

    @property
    def learns(self) -> bool:
        """Whether it goes by what a learner makes of the samples: see `vecaf_hf/learners`."""
        return "learned_scores" in self.reads

    def shares_by_class(self, options: SelectionOptions) -> bool:
        """Whether the option `class_balance` acts: where there is an allocation too, on `class` alone."""
        return "class_balance" in self.heeds and ("allocation" not in self.heeds or options.allocation == "class")

    @property
    def summary(self) -> str:
        """One line: what it selects."""
        return (self.select.__doc__ or "").strip().split("\n")[0]


class Registry(MutableMapping[str, Strategy]):
    """Name -> strategy. Other packages' entry points are loaded when a name is looked up that is not known yet, or
    when all are listed.

    Attributes:
        broken: Name of an entry point that cannot be used -> why.
    """

    def __init__(self) -> None:
        self._known: dict[str, Strategy] = {}
        self._loaded = False
        self.broken: dict[str, str] = {}

    def __getitem__(self, name: str) -> Strategy:
        if name not in self._known:
            self._load()
        return self._known[name]

    def __setitem__(self, name: str, strategy: Strategy) -> None:
        self._known[name] = strategy

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(list(self._known))

    def __len__(self) -> int:
        self._load()
        return len(self._known)

    def name_of(self, select: object) -> object:
        """The name of a registered function; anything else as it is."""
        return next((name for name, one in self._known.items() if one.select is select), select)

    def around(self, select: object) -> Strategy | None:
        """The strategy that was registered with this function."""
        return next((one for one in self._known.values() if one.select is select), None)

    def add(self, name: str, strategy: Strategy) -> None:
        """Register a strategy. The same function, as of a notebook's cell that runs again, replaces itself.

        Raises:
            ValueError: Another one has the name.
        """
        known = self._known.get(name)
        if known is not None and _place(known.select) != _place(strategy.select):
            raise ValueError(f"strategy {name!r} is there already, {_place(known.select)}: choose another name")
        self._known[name] = strategy

    def _load(self) -> None:
        if self._loaded:
            return
        # Before anything is loaded, which may look up a name itself.
        self._loaded = True
        for point in entry_points(group=ENTRY_POINTS):
            try:
                self._add_published(point)
            except Exception as error:  # whatever a package raises when it is imported
                package = point.dist.name if point.dist else "an unknown package"
                self.broken[point.name] = (
                    f"strategy {point.name!r} of package {package!r} (entry point {point.value}) cannot be used: "
                    f"{type(error).__name__}: {error}"
                )
                logger.warning(self.broken[point.name])

    def _add_published(self, point: EntryPoint) -> None:
        found = point.load()
        if isinstance(found, Strategy):
            self.add(point.name, found)
        elif self.around(found) is None:
            raise TypeError("it is neither a Strategy nor a function with the decorator vecaf_hf.selection.strategy")
        elif self._known.get(point.name) is not self.around(found):
            raise ValueError(f"its function is registered by its own name, {found.__name__!r}: give both one name")


STRATEGIES = Registry()


def strategy(
    *,
    needs: Set[str] = frozenset(),
    wants: Set[str] = frozenset(),
    size: Size = "budget",
    heeds: Set[str] = frozenset(),
    candidates_per_sample: int | None = None,
    weighs: bool = False,
) -> Callable[[F], F]:
    """Register a function as the strategy of its name.

    Args:
        needs: Fields of `Candidates` without which it cannot select.
        wants: Fields of `Candidates` that it uses where there are any.
        size: How many it selects: as `Strategy` says.
        heeds: Options that it follows: as `Strategy` says.
        candidates_per_sample: How many random candidates it wants per selected sample; None for all of the pool.
        weighs: Whether it gives samples weights.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        ValueError: Another strategy has the name.
    """

    def register(select: F) -> F:
        STRATEGIES.add(select.__name__, Strategy(select, needs, wants, size, heeds, candidates_per_sample, weighs))
        return select

    return register


def find_strategy(strategy: str | Select) -> Strategy:
    """The registered strategy of that name or function; around any other callable, one that is given all scores.

    Args:
        strategy: A name in `STRATEGIES`, or (candidates, budget, options, generator) -> `Selection` or indices.

    Raises:
        ValueError: No strategy has that name, or the package that has it cannot be loaded.
    """
    if callable(strategy):
        # Whether it weighs, its selection will show.
        scores = {"embeddings", "losses", "labels", "logits", "relevance"}
        return STRATEGIES.around(strategy) or Strategy(strategy, wants=scores)
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        if broken := STRATEGIES.broken.get(str(strategy)):
            raise ValueError(broken)
        check_choice("strategy", strategy, STRATEGIES)
    return STRATEGIES[strategy]


def check_class_balance(options: SelectionOptions) -> None:
    """Raise a ValueError if `class_balance` is set where nothing heeds it; a callable may."""
    strategy, balance = find_strategy(options.strategy), options.class_balance
    if balance == 1 or callable(options.strategy) or strategy.shares_by_class(options):
        return
    if "allocation" in strategy.heeds:
        raise ValueError(
            f"class_balance is {balance}, and allocation={options.allocation!r} gives classes no shares by their "
            "sizes: set allocation='class', or leave class_balance out"
        )
    heeding = [name for name, one in STRATEGIES.items() if "class_balance" in one.heeds]
    raise ValueError(
        f"class_balance is {balance}, and strategy {options.strategy!r} gives classes no shares by their sizes: choose "
        f"one of {', '.join(sorted(heeding))}, or leave class_balance out"
    )


def _place(select: Select) -> str:
    """Where a strategy's function is defined."""
    return f"{getattr(select, '__module__', '')}.{getattr(select, '__qualname__', repr(select))}"
