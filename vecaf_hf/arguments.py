"""Every option of a run: Trainer's arguments, a selection's options, and the loop's."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from transformers import TrainingArguments

from vecaf_hf.selection.options import SelectionOptions
from vecaf_hf.selection.registry import STRATEGIES, check_class_balance, find_strategy
from vecaf_hf.validation import check_choice, check_fraction, check_options, check_positive, whole

logger = logging.getLogger(__name__)

DEFAULT_FRACTION = 0.1
# Strategies that by default select all that a loop trains on.
BY_CHANCE = ("balanced", "random")
DEFAULT_SCORING_FRACTION = 0.25
ON_BAD_SAMPLE = ("raise", "check", "skip")


@dataclass(frozen=True)
class ScoringWay:
    """What the options must know of a value of `rescore`; `vecaf_hf.scoring.rescoring` has what it does.

    Args:
        takes_fraction: Whether `scoring_fraction` means anything.
        reads_training_losses: Whether the losses that training sees must be recorded.
    """

    takes_fraction: bool = False
    reads_training_losses: bool = False


RESCORE = {
    "full": ScoringWay(),
    "sampled": ScoringWay(takes_fraction=True),
    "stale": ScoringWay(takes_fraction=True, reads_training_losses=True),
    "proxy": ScoringWay(),
}
# Trainer's and ours that a run's sizes and seeds are made of, and the least of each.
WHOLE_NUMBERS = {
    "num_loops": 1,
    "selection_budget": 1,
    "scoring_batch_size": 1,
    "scoring_image_size": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": -1,  # not set
    "seed": 0,
    "data_seed": 0,
}


@dataclass
class VeCAFArguments(TrainingArguments, SelectionOptions):
    """`TrainingArguments` with the options of VeCAF and of its selections (`vecaf_hf.selection.SelectionOptions`).

    `max_steps=...`, or `num_train_epochs=...` over the pool, give the total number of batches as for Trainer. A loop is
    an epoch, or the part of the run that `num_loops` says; `eval_strategy="epoch"` evaluates at every loop's end.

    Raises:
        ValueError: An option has no meaning, or one of Trainer's breaks the loops. Raised at construction.
    """

    num_loops: int | None = field(
        default=None,
        metadata={
            "help": "Loops L: the run's batches are divided evenly among them, and each loop selects anew; if not set, "
            "a loop is an epoch."
        },
    )
    selection_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Part of the pool selected per loop, in (0, 1]. Where neither it nor selection_budget is given: "
            f"{DEFAULT_FRACTION}, and for balanced and random without CEA as many samples as the loop trains on, so "
            "that none comes twice; in a loop that is an epoch, all."
        },
    )
    selection_budget: int | None = field(
        default=None, metadata={"help": "Samples K selected per loop, instead of selection_fraction."}
    )
    single_run: bool = field(
        default=False, metadata={"help": "Select once, before the first loop, and keep that selection."}
    )
    jtt_restart: bool = field(
        default=True,
        metadata={
            "help": "Whether jtt's second training begins with the run's first weights again, as published, or goes on."
        },
    )
    rescore: str = field(
        default="full",
        metadata={
            "help": "What is scored when a loop begins: full, the whole pool; sampled, a random part, which alone "
            "is selected from; stale, the whole pool once, then a random part, while others keep their last"
            " score or take the loss that training saw; proxy, the whole pool once, and then a linear probe"
            " on its embeddings gives the losses."
        },
    )
    scoring_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Part of the pool scored at a boundary with rescore sampled (more than the budget) or stale, in "
            f"(0, 1]; {DEFAULT_SCORING_FRACTION} if not set."
        },
    )
    scoring_image_size: int | None = field(
        default=None,
        metadata={
            "help": "Height and width that images are resized to before they are scored, which costs less (not with"
            " rescore stale)."
        },
    )
    scoring_batch_size: int | None = field(
        default=None,
        metadata={"help": "Batch per process of the scoring pass; per_device_eval_batch_size if not set."},
    )
    scoring_bf16: bool = field(
        default=False,
        metadata={
            "help": "Whether the pool is scored in bfloat16, by autocast, whatever the training's precision: faster "
            "where the device has instructions for it."
        },
    )
    score_cache: str | None = field(
        default=None,
        metadata={
            "help": "A folder that keeps the untrained model's embeddings of the pool, so that runs which begin "
            "alike score it once."
        },
    )
    half_embeddings: bool = field(
        default=False,
        metadata={
            "help": "Whether the pool's embeddings are kept in half precision (float16), which takes half of their "
            "memory."
        },
    )
    on_bad_sample: str = field(
        default="raise",
        metadata={
            "help": "What becomes of samples that cannot be loaded: raise an error when a batch has one, check before "
            "the training, which loads all that it will take once more, or skip them, found likewise and never "
            "selected (trainer.skipped_samples lists them)."
        },
    )
    trainer_loss_scale: bool = field(
        default=False,
        metadata={
            "help": "Whether gradients keep Trainer's scale, which multiplies those of most image classifiers by "
            "gradient_accumulation_steps and the number of processes."
        },
    )
    correct_class_shares: bool = field(
        default=False,
        metadata={
            "help": "Whether the trained head expects the pool's class shares in place of the selections': the "
            "difference of their logarithms is added to its bias when the training ends."
        },
    )
    head: str | None = field(
        default=None,
        metadata={"help": "Dotted name of the classification head inside the model, where it is not found by itself."},
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "The dataset's column of labels, where it is not found by itself; the word none if a transform "
            "makes them."
        },
    )
    select_for: list[str] | None = field(
        default=None,
        metadata={
            "help": "Conditions that the selection is to mend, by words of captions such as snow, or, from Python, by "
            "positions of samples (a condition's members): samples like them weigh more in ods, by as much as they are "
            "worse than their classes."
        },
    )
    group_column: str | None = field(
        default=None,
        metadata={"help": "The dataset's column of each sample's group, which strategy group_balanced alone reads."},
    )

    def __new__(cls, *args: Any, **options: Any) -> VeCAFArguments:
        check_options(cls.__name__, options, cls.__dataclass_fields__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                # Arguments are written as JSON, which has Python's numbers alone.
                setattr(self, name, value.item())
        TrainingArguments.__post_init__(self)
        self.strategy = STRATEGIES.name_of(self.strategy)  # type: ignore[assignment]
        SelectionOptions.__post_init__(self)
        find_strategy(self.strategy)
        check_choice("rescore", self.rescore, RESCORE, or_callable=False)
        check_choice("on_bad_sample", self.on_bad_sample, ON_BAD_SAMPLE, or_callable=False)
        self._check_numbers()
        self._check_sizes()
        self._check_groups()
        self._check_select_for()
        self._refuse_what_breaks_loops()
        if self.world_size > 1:
            self._refuse_uneven_shares(self.world_size, self.accelerator_config)

    def _check_numbers(self) -> None:
        for name, least in WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if value is not None or self.__dataclass_fields__[name].default is not None:
                whole(name, value, least)
        for name in ("scoring_fraction", "selection_fraction"):
            if getattr(self, name) is not None:
                check_fraction(name, getattr(self, name))
        if self.max_steps <= 0:
            check_positive("num_train_epochs", self.num_train_epochs)

    def _check_sizes(self) -> None:
        if self.selection_fraction is not None and self.selection_budget is not None:
            raise ValueError("selection_fraction and selection_budget are both given: keep one")
        way = RESCORE[self.scoring_way[0]]
        if self.scoring_fraction is not None and not way.takes_fraction:
            raise ValueError(
                f"scoring_fraction is {self.scoring_fraction}, and rescore={self.rescore!r} scores no part of the "
                'pool: set rescore="sampled" to select from a part, rescore="stale" to renew a part, or leave '
                "scoring_fraction unset"
            )
        if self.scoring_image_size is not None and way.reads_training_losses:
            raise ValueError(
                f"scoring_image_size is {self.scoring_image_size}, and rescore={self.rescore!r} sets scores of small "
                "images beside the losses that training saw of large ones: choose another rescore, or leave "
                "scoring_image_size unset"
            )
        check_class_balance(self)
        strategy = find_strategy(self.strategy)
        if self.random_fraction and strategy.size != "budget":
            raise ValueError(
                f"random_fraction is {self.random_fraction}, and strategy {self.strategy!r} itself decides how many it "
                "takes: leave random_fraction at 0"
            )
        if self.single_run and "training_losses" in strategy.reads:
            raise ValueError(
                f"single_run selects before anything is trained, and strategy {self.strategy!r} goes by the losses of "
                "training: leave single_run off"
            )
        self.check_loops(2 if self.num_loops is None else self.num_loops)

    def check_loops(self, loops: int) -> None:
        """Raise a ValueError if a run of so many loops has no meaning for the strategy."""
        if "mistaken" in find_strategy(self.strategy).reads and (self.single_run or loops < 2):
            raise ValueError(
                f"strategy {self.strategy!r} trains on all, and then selects by what it got wrong: it needs at least 2 "
                "loops (num_loops, or epochs), and single_run off"
            )

    def _check_groups(self) -> None:
        reads = "groups" in find_strategy(self.strategy).reads
        if reads and self.group_column is None:
            raise ValueError(
                f"strategy {self.strategy!r} draws as many of each group, and group_column is not set: name the "
                "dataset's column that holds them"
            )
        if self.group_column is not None and not reads:
            raise ValueError(
                f"group_column is {self.group_column!r}, and strategy {self.strategy!r} must not see the groups: set "
                "strategy='group_balanced', or leave group_column unset"
            )

    def _check_select_for(self) -> None:
        given: Any = self.select_for
        if given is None:
            return
        try:
            wanted: Any = [_wanted(one) for one in ([] if isinstance(given, str) else given)]
        except (TypeError, ValueError, RuntimeError):
            wanted = []
        if not wanted or not all(wanted):
            raise ValueError(
                f"select_for is {given!r}; it must be a list of words, of conditions that trainer.conditions() gave, "
                "or of lists of positions"
            )
        self.select_for = wanted
        strategy = find_strategy(self.strategy)
        if not {"relevance", "losses"} <= strategy.reads:
            raise ValueError(
                f"select_for weighs samples by how they fail, and strategy {self.strategy!r} does not go by losses and "
                "weights: choose strategy 'ods', or leave select_for unset"
            )

    def _refuse_what_breaks_loops(self) -> None:
        reasons = {
            "ignore_data_skip": "a resumed loop must go on with the samples that it had not used",
            "save_on_each_node": "a checkpoint needs the generators of all processes in one folder",
        }
        for name, reason in reasons.items():
            if getattr(self, name, None):
                raise ValueError(f"{name} does not go with VeCAF: {reason}")
        if str(getattr(self, "train_sampling_strategy", "random")) != "random":
            raise ValueError(
                f"train_sampling_strategy={self.train_sampling_strategy!r} does not go with VeCAF: the selection "
                "decides what is sampled"
            )

    def _refuse_uneven_shares(self, world: int, config: Any) -> None:
        if config.dispatch_batches and not config.split_batches:
            raise ValueError(
                "accelerator_config has dispatch_batches without split_batches: accelerate resumes such a loader at "
                "the wrong batch (skip_first_batches forgets the number of processes); set split_batches too, or none"
            )
        if not config.even_batches:
            raise ValueError(
                f"accelerator_config has even_batches=False: an evaluation gathers rows from {world} processes, and "
                "ends when they have different numbers; leave it True"
            )
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if config.split_batches and getattr(self, name) % world:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, and split_batches divides it among {world} processes: set a "
                    f"multiple of {world}"
                )

    @property
    def has_budget(self) -> bool:
        """Whether somebody chose how many samples a loop selects."""
        return self.selection_budget is not None or self.selection_fraction is not None

    def budget(self, pool_size: int, trained: int | None = None) -> int:
        """K for a pool of N samples: `selection_budget`, or round(fraction * N), at least 1.

        Args:
            pool_size: N.
            trained: Samples that a loop trains on: K where nobody chose, for a strategy of BY_CHANCE.

        Raises:
            ValueError: The budget is larger than the pool.
        """
        if not self.has_budget and trained is not None and self.strategy in BY_CHANCE:
            return min(pool_size, trained)
        if self.selection_budget is None:
            fraction = DEFAULT_FRACTION if self.selection_fraction is None else self.selection_fraction
            return max(1, round(fraction * pool_size))
        if self.selection_budget > pool_size:
            raise ValueError(f"selection_budget is {self.selection_budget}, more than the pool's {pool_size} samples")
        return self.selection_budget

    @property
    def scoring_way(self) -> tuple[str, float | None]:
        """What acts for `rescore` and `scoring_fraction`; no fraction where the way has none, or the strategy its own
        number of candidates."""
        if find_strategy(self.strategy).candidates_per_sample is not None:
            return "sampled", None
        if not RESCORE[self.rescore].takes_fraction:
            return self.rescore, None
        return self.rescore, DEFAULT_SCORING_FRACTION if self.scoring_fraction is None else self.scoring_fraction

    def scoring_of(self, pool_size: int) -> tuple[str, float | None]:
        """`scoring_way` in a pool of N samples, where a strategy's own number of candidates is a fraction too."""
        way, fraction = self.scoring_way
        per_sample = find_strategy(self.strategy).candidates_per_sample
        return way, fraction if per_sample is None else per_sample * self.budget(pool_size) / pool_size

    def check_part_scored(self, pool_size: int) -> None:
        """Raise a ValueError if so small a part of the pool is scored that all of it would be selected."""
        way, part = self.scoring_way
        if way != "sampled" or part is None or not find_strategy(self.strategy).needs_forward:
            return
        count, budget = round(part * pool_size), self.budget(pool_size)
        if count <= budget:
            raise ValueError(
                f"scoring_fraction is {part:g}, with rescore='sampled' {count} of {pool_size} samples, and "
                f"the budget (selection_fraction or selection_budget) is {budget}: all that is scored would be "
                "selected. Set scoring_fraction higher or the budget lower"
            )

    def identity(self) -> dict[str, Any]:
        """The options that decide what is selected: a resumed run must share them. JSON values; callables by name."""
        names = [
            *SelectionOptions.__dataclass_fields__,
            "single_run",
            "scoring_image_size",
            "group_column",
            "jtt_restart",
            "label_smoothing_factor",
            *([] if self.select_for is None else ["select_for"]),
            *(name for name in ("half_embeddings", "scoring_bf16") if getattr(self, name)),
        ]
        # By what acts: to write down a default, or what the strategy does not heed, is no other run.
        way, part = self.scoring_way
        acting = {"rescore": way, "scoring_fraction": part, "class_balance": self.class_balance}
        return {name: _named(getattr(self, name)) for name in names} | acting

    def to_dict(self) -> dict[str, Any]:
        """Trainer's, in JSON values; callables by name."""
        return {name: _named(value) for name, value in super().to_dict().items()}

    # Trainer's own, which hides tokens: dataclass would write one that shows them.
    __repr__ = TrainingArguments.__repr__

    def __getstate__(self) -> dict[str, Any]:
        # For pickle, whose files leave the machine: no token, and by its name a local function, which has no pickle.
        state = {name: None if name.endswith("_token") else value for name, value in vars(self).items()}
        return state | {name: _named(state[name]) for name in ("strategy", "loss_weighting")}

    def __copy__(self) -> VeCAFArguments:
        return self._twin(vars(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> VeCAFArguments:
        return self._twin(copy.deepcopy(vars(self), memo))

    def _twin(self, values: dict[str, Any]) -> VeCAFArguments:
        """Other arguments with these values, tokens and functions included, which pickle leaves out."""
        twin = object.__new__(type(self))
        vars(twin).update(values)
        return twin


def _wanted(one: Any) -> str | list[int]:
    """A word, or the positions of a condition's members."""
    return one if isinstance(one, str) else [int(index) for index in getattr(one, "members", one)]


def _named(value: Any) -> Any:
    if not callable(value) or isinstance(value, type):
        return value
    # Of an object its class: its repr has its address, another one in each run.
    return getattr(value, "__qualname__", type(value).__qualname__)


def without_classes(args: VeCAFArguments, reason: str | None) -> VeCAFArguments:
    """The arguments for labels that are not one class per sample: the default strategy, which goes by classes, gives
    way to random, and says so; whatever was chosen otherwise stays.

    Args:
        args: Of a run.
        reason: How its labels are known not to be classes; None if they may be.
    """
    default = VeCAFArguments.strategy
    if reason is None or args.strategy != default or args.class_balance != 1:
        return args
    logger.warning("%s: strategy %r, the default, needs one class per sample; random selects instead", reason, default)
    return replaced(args, strategy="random")


def replaced(args: VeCAFArguments, **values: Any) -> VeCAFArguments:
    """Other arguments, with these values in place of theirs."""
    args = copy.copy(args)
    vars(args).update(values)
    return args


def with_defaults(args: TrainingArguments | None) -> VeCAFArguments:
    """The arguments as VeCAF's: as they are, or `TrainingArguments` with the same values and our options' defaults.

    Args:
        args: Of a trainer; None for the defaults of all.

    Raises:
        ValueError: They are of another subclass of `TrainingArguments` and have options that would be lost; or one of
            Trainer's options breaks the loops (`VeCAFArguments`).
    """
    if isinstance(args, VeCAFArguments):
        return args
    if args is None:
        return VeCAFArguments(output_dir="tmp_trainer")
    # Not what is derived from them, such as the device: it is derived again.
    values = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    unknown = values.keys() - {field.name for field in fields(VeCAFArguments)}
    if unknown:
        raise ValueError(
            f"args are {type(args).__name__}, and VeCAFArguments has no {', '.join(sorted(unknown))}: derive "
            f"{type(args).__name__} from VeCAFArguments"
        )
    made = VeCAFArguments(**values)
    logger.warning(
        "args are %s: VeCAF's options have their defaults, strategy=%r and loops that are epochs, each of the whole "
        "pool as for Trainer. Pass VeCAFArguments with num_loops or selection_fraction to select",
        type(args).__name__,
        made.strategy,
    )
    return made
