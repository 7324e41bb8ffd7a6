"""The options of a selection: `select(..., **options)` and `VeCAFArguments` are both made of these fields."""

from __future__ import annotations

from dataclasses import dataclass, field

from vecaf_hf.selection.starts import CENTROID_STARTS
from vecaf_hf.selection.weighting import LOSS_WEIGHTINGS, TRIMMED_FRACTION
from vecaf_hf.validation import check_at_least, check_choice, check_positive, whole

ALLOCATIONS = ("class", "class_loss", "global")
ENSEMBLES = ("best", "debias")


@dataclass(kw_only=True)
class SelectionOptions:
    """How a strategy selects. All have defaults, and are given by name.

    Raises:
        ValueError: An option is out of its range or none of its choices, or two of them contradict each other.
    """

    strategy: str = field(
        default="balanced",
        metadata={
            "help": "How samples are selected: the name of a registered strategy (the paper's is ods), or, from "
            "Python, a callable (candidates, budget, options, generator) -> Selection or indices."
        },
    )
    loss_weighting: str = field(
        default="raw",
        metadata={
            "help": "How a sample's loss becomes its weight in ODS's target distribution (Eq. 3), and its chance "
            "with loss_sampling: raw (the paper), clipped (winsorised at the 95th percentile), sqrt, "
            "uniform (ActiveFT), trimmed (raw, but 0 for the largest of each class, trimmed_fraction of "
            "it), or, from Python, a callable Tensor[N] -> Tensor[N]."
        },
    )
    diversity_weight: float = field(
        default=0.01,
        metadata={
            "help": "Lambda of Eq. 7: how much ODS's centroids repel each other (the paper: 1, which activeft "
            "always has)."
        },
    )
    temperature: float = field(
        default=0.07, metadata={"help": "Tau: divides every cosine similarity in ODS's objective."}
    )
    allocation: str = field(
        default="class",
        metadata={
            "help": "Where ODS's centroids may live: global (the paper), in the whole pool; class, each class with "
            "a share of the budget by class_balance; class_loss, with a share by its mean loss weight."
        },
    )
    class_balance: float = field(
        default=1.0,
        metadata={
            "help": "Class shares of a selection by class (ods with allocation class, balanced, trimmed, "
            "group_balanced), between the pool's own (0) and equal ones (1): a class's share follows its size to the "
            "power of 1 - class_balance."
        },
    )
    ensemble_size: int = field(
        default=1,
        metadata={"help": "Sets of centroids per selection, each with a start of its own (the paper: 5)."},
    )
    ensemble: str = field(
        default="best",
        metadata={
            "help": "What becomes of an ensemble: best keeps the member with the lowest objective; debias moves the"
            " first member towards the mean of all matched ones, by the paper's formula."
        },
    )
    centroid_start: str = field(
        default="k-means++",
        metadata={
            "help": "How the samples that ODS's centroids start at are drawn: k-means++ (with probability p_L times "
            "the squared distance to the nearest one drawn before), weighted (with p_L), random (all alike)."
        },
    )
    selection_learning_rate: float = field(
        default=0.35,
        metadata={
            "help": "Longest step of ODS's centroids where they repel each other (diversity_weight above 0), an angle "
            "in radians; it falls linearly to 0."
        },
    )
    selection_steps: int = field(
        default=36,
        metadata={"help": "Most steps per selection, each after a look at a part of the pool, at least 128 samples."},
    )
    selection_tolerance: float = field(
        default=3e-3,
        metadata={
            "help": "ODS has converged when its objective changed, over four steps and twice in a row, by less than "
            "this part of its change since the start. Where that looks at a part of the pool, all steps are taken."
        },
    )
    random_fraction: float = field(
        default=0.0,
        metadata={
            "help": "Part of each selection, in [0, 1), that is drawn at random instead, balanced by class as "
            "class_balance says."
        },
    )
    trimmed_fraction: float = field(
        default=TRIMMED_FRACTION,
        metadata={
            "help": "Part of each class, in [0, 1), with the largest losses, that loss_weighting trimmed leaves "
            "out, and so does strategy trimmed after a third of the run."
        },
    )
    jtt_upweight: float = field(
        default=20.0,
        metadata={
            "help": "How many times as likely jtt draws a sample that the first training got wrong, at least 1 "
            "(lambda_up of arXiv 2107.09044)."
        },
    )

    def __post_init__(self) -> None:
        check_choice("loss_weighting", self.loss_weighting, LOSS_WEIGHTINGS)
        check_choice("allocation", self.allocation, ALLOCATIONS, or_callable=False)
        check_choice("ensemble", self.ensemble, ENSEMBLES, or_callable=False)
        check_choice("centroid_start", self.centroid_start, CENTROID_STARTS, or_callable=False)
        check_at_least("diversity_weight", self.diversity_weight, 0)
        check_positive("temperature", self.temperature)
        check_positive("selection_learning_rate", self.selection_learning_rate)
        check_at_least("selection_tolerance", self.selection_tolerance, 0)
        check_at_least("class_balance", self.class_balance, 0)
        if self.class_balance > 1:
            raise ValueError(f"class_balance is {self.class_balance}; it must be at most 1, which is equal shares")
        check_at_least("random_fraction", self.random_fraction, 0)
        if self.random_fraction >= 1:
            raise ValueError(
                f"random_fraction is {self.random_fraction}; it must be less than 1 (all at random: strategy='random')"
            )
        check_at_least("trimmed_fraction", self.trimmed_fraction, 0)
        if self.trimmed_fraction >= 1:
            raise ValueError(f"trimmed_fraction is {self.trimmed_fraction}; it must be less than 1, which is all")
        check_at_least("jtt_upweight", self.jtt_upweight, 1)
        if self.random_fraction and self.strategy == "trimmed":
            raise ValueError("random_fraction would bring back what strategy 'trimmed' leaves out: leave it at 0")
        self.selection_steps = whole("selection_steps", self.selection_steps, 0)
        self.ensemble_size = whole("ensemble_size", self.ensemble_size, 1)
