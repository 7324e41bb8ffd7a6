"""What happened at each loop boundary, for logs, summaries and plots."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vecaf_hf.selection import Selection
from vecaf_hf.selection.candidates import Candidates


@dataclass(frozen=True)
class LoopRecord:
    """One loop's selection in figures.

    Args:
        loop: 0-based.
        step: Global step at which the loop began.
        selected: K.
        new: Selected samples that no earlier loop had selected.
        class_counts: Selected samples by class; empty without labels.
        pool_loss: Mean loss of the pool, as its candidates tell, each class with its weight in the pool: of mixed age
            with rescore="stale", the probe's with "proxy"; None without scoring.
        selected_loss: Mean of those losses over the selected samples; None without scoring.
        info: The strategy's and the augmentation's own figures.
    """

    loop: int
    step: int
    selected: int
    new: int
    class_counts: dict[int, int]
    pool_loss: float | None
    selected_loss: float | None
    info: dict[str, float]

    def logs(self) -> dict[str, float]:
        """Scalars for Trainer's log, under `vecaf/`."""
        figures: dict[str, float | None] = {
            "loop": self.loop,
            "selected": self.selected,
            "new": self.new,
            "classes": len(self.class_counts) or None,
            "pool_loss": self.pool_loss,
            "selected_loss": self.selected_loss,
            **self.info,
        }
        return {f"vecaf/{name}": value for name, value in figures.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LoopRecord:
        counts = {int(label): count for label, count in values["class_counts"].items()}
        return cls(**{**values, "class_counts": counts})


def record_loop(
    loop: int,
    step: int,
    selection: Selection,
    earlier: list[Selection],
    candidates: Candidates,
    labels: Tensor | None,
) -> LoopRecord:
    """The record of a selection made from these candidates; `labels` are the pool's, or None. LongTensor [N]."""
    before = torch.cat([past.indices for past in earlier]) if earlier else selection.indices[:0]
    chosen = torch.isin(candidates.indices, selection.indices)
    losses = candidates.losses
    if labels is not None:
        classes = labels[selection.indices]
    else:
        classes = selection.indices[:0] if candidates.classes is None else candidates.classes[chosen]
    values, counts = classes.unique(return_counts=True)
    return LoopRecord(
        loop=loop,
        step=step,
        selected=len(selection),
        new=int((~torch.isin(selection.indices, before)).sum()),
        class_counts=dict(zip(values.tolist(), counts.tolist(), strict=True)),
        pool_loss=None if losses is None else _mean_in_pool(losses, candidates.indices, labels),
        selected_loss=None if losses is None else float(losses[chosen].mean()),
        info=selection.info,
    )


def _mean_in_pool(losses: Tensor, indices: Tensor, labels: Tensor | None) -> float:
    """The mean of candidates' losses, of whose classes there may be another part than in the pool. [M], [M], [N]."""
    if labels is None:
        return float(losses.mean())
    _, classes = labels.unique(return_inverse=True)
    scored = classes[indices]
    weights = classes.bincount()[scored] / scored.bincount()[scored]
    return float((losses * weights).sum() / weights.sum())
