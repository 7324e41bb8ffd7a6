"""What can be known of a run before it is started."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from vecaf_hf.inspection.budget import Budget
from vecaf_hf.inspection.duplicates import NearDuplicates
from vecaf_hf.inspection.embedding_map import EmbeddingMap
from vecaf_hf.inspection.extremes import Extremes
from vecaf_hf.inspection.out_of_fold import SuspiciousLabel
from vecaf_hf.inspection.shares import ClassShare, Histogram


@dataclass(frozen=True)
class Sample:
    """A sample that is shown.

    Args:
        class_name: None where it has no single class.
        caption: What CEA would pull it towards; None without.
    """

    class_name: str | None
    caption: str | None


@dataclass(frozen=True)
class Inspection:
    """A run's first selection and budget, found without training. JSON values all through: `to_json()`.

    Args:
        strategy: Its name.
        pool_size: N.
        budget: K, of each loop.
        num_loops: L.
        looked_at: Samples that were scored.
        selected_from: Candidates of the selection that was looked at.
        is_part: Whether these are fewer than the run's, and the budget less in proportion.
        scores: Whether the run scores samples before the first loop; otherwise they were scored for looking.
        selected: Positions in the pool of the selection that was looked at.
        cost: The run's budget.
        classes: Selected and pool by class.
        losses: Under the model as it is; None where nothing that was scored is selected.
        fold_losses: Out of fold, of the same samples; None where there are not two classes.
        duplicates: Among the selected.
        checked_labels: Samples whose label was looked at; 0 where there are not two classes.
        suspicious: Those whose label looks wrong.
        extremes: Selected samples nearest to and farthest from what they stand for.
        map: Candidates in the plane.
        samples: Of all samples that are shown, by position in the pool.
        class_names: Of the model.
    """

    strategy: str
    pool_size: int
    budget: int
    num_loops: int
    looked_at: int
    selected_from: int
    is_part: bool
    scores: bool
    selected: tuple[int, ...]
    cost: Budget
    classes: tuple[ClassShare, ...]
    losses: Histogram | None
    fold_losses: Histogram | None
    duplicates: NearDuplicates
    checked_labels: int
    suspicious: tuple[SuspiciousLabel, ...]
    extremes: Extremes
    map: EmbeddingMap
    samples: dict[int, Sample]
    class_names: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All figures in JSON values, by name."""
        return json.loads(json.dumps(asdict(self)))
