"""How a loop's candidates come by their scores: by a forward pass over the pool, or by less."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vecaf_hf.agreement import Together
from vecaf_hf.data.pool import Pool
from vecaf_hf.seeding import seed_of
from vecaf_hf.selection.candidate_set import candidate_set
from vecaf_hf.selection.candidates import Candidates
from vecaf_hf.selection.processes import Spread

logger = logging.getLogger(__name__)

# Part of the scored samples that may be of other classes than the pool's, beside what chance does.
UNLIKE = 0.1
# Times as many samples as were asked for, from which it is told.
LARGER = 1.5


@dataclass(frozen=True)
class Boundary:
    """A loop that begins, and what there is to score with.

    Args:
        loop: 0-based.
        seed: Fixes everything random.
        score: Candidates of these positions of the pool under the current model, by a forward pass; without those that
            cannot be loaded, and without any field where none can.
        trained: The samples that an earlier loop has trained on, rising. LongTensor [n].
        training_losses: Loss of each sample as training saw it last, NaN where unseen. [N].
        probed: (seen, candidates) -> the candidates under a linear probe that is fitted on those seen in training.
    """

    loop: int
    seed: int
    score: Callable[[Tensor], Candidates]
    trained: Callable[[int], Tensor]
    training_losses: Callable[[], Tensor]
    probed: Callable[[Candidates, Candidates], Candidates]


class Rescoring:
    """One way; every process must ask for the candidates of every loop, in turn.

    Args:
        pool: What is scored.
        budget: K.
        fraction: Part of the pool to score at a boundary, for the ways that score a part.
        class_balance: How many of each class a part of the pool has: as `candidate_set` takes it.

    Attributes:
        begins_with_all: Whether the first loop scores, and so loads, the whole pool.
        count: Samples that a later loop scores.
        kept: What the next boundary needs, in pool order.
    """

    begins_with_all: ClassVar[bool] = True

    def __init__(self, pool: Pool, budget: int, fraction: float | None, class_balance: float = 0.0) -> None:
        self.pool, self.budget, self.class_balance = pool, budget, class_balance
        self.count = self.scored_later(len(pool), fraction)
        self.kept: Candidates | None = None

    @classmethod
    def scored_later(cls, pool_size: int, fraction: float | None) -> int:
        """Samples that pass the model when a loop begins that is not the first, where all can be loaded."""
        return pool_size

    @classmethod
    def scored_first(cls, pool_size: int, fraction: float | None) -> int:
        """The same of the first loop."""
        return pool_size if cls.begins_with_all else cls.scored_later(pool_size, fraction)

    def candidates(self, boundary: Boundary) -> Candidates:
        """All that the loop's selection may choose from, those that cannot be loaded perhaps among them; none, without
        any field, where nothing can be loaded."""
        raise NotImplementedError

    def drawn(self, loop: int, count: int | None = None) -> Tensor:
        """Samples to score, rising: a random part as `part_of` draws it, or all if `count` is None; what could not be
        loaded gets another try. LongTensor [n]."""
        usable, failed = self.pool.ledger.usable, list(self.pool.ledger.failed["scoring"])
        count = len(usable) if count is None else min(len(usable), count)
        part = part_of(self.pool, usable, count, loop, self.class_balance)
        again = torch.tensor(failed, dtype=torch.long)
        if self.pool.shards is not None:
            # Those alone whose shards are read anyway.
            again = again[np.isin(self.pool.shards.shard_of(again), self.pool.shards.shard_of(part))]
        return torch.cat([part, again]).unique()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, which the main process writes; each must call it."""
        if self.kept is None:
            return {}
        shared = self.kept.shared_embeddings
        if shared is None:
            return self.kept.tensors()
        return {**self.kept.tensors(), "embeddings": shared.in_first(), "bounds": torch.tensor(shared.bounds)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        # In memory of their own: what is read from a file lies elsewhere in it, and sums differ in their last bit.
        held: dict[str, Any] = {name: values.clone() for name, values in state.items() if name != "embeddings"}
        embeddings, bounds = state.get("embeddings"), held.pop("bounds", None)
        if bounds is not None and embeddings is not None:
            together, places = Together(self.pool.accelerator), tuple(bounds.tolist())
            own = embeddings[places[together.rank] : places[together.rank + 1]].clone()
            held["shared_embeddings"] = Spread(own, places, together)
        elif embeddings is not None:
            held["embeddings"] = embeddings.clone()
        self.kept = Candidates(**held) if held else None


class Full(Rescoring):
    """The whole pool is scored at each boundary."""

    def candidates(self, boundary: Boundary) -> Candidates:
        return boundary.score(self.drawn(boundary.loop))


class Sampled(Rescoring):
    """A fresh random part of the pool is scored, and selected from."""

    begins_with_all = False

    @classmethod
    def scored_later(cls, pool_size: int, fraction: float | None) -> int:
        return min(pool_size, _part(pool_size, fraction))

    def candidates(self, boundary: Boundary) -> Candidates:
        asked = self.drawn(boundary.loop)
        found = boundary.score(asked)
        generator = torch.Generator().manual_seed(boundary.seed)
        # As many again, where too few could be loaded.
        while len(found) < self.budget and len(rest := _without(self.pool.ledger.usable, asked)):
            if self.pool.shards is None:
                more = rest[torch.randperm(len(rest), generator=generator)[: self.count]]
            else:
                more = part_of(self.pool, rest, self.count, boundary.loop)
            asked = torch.cat([asked, more])
            found = renewed(found, boundary.score(more.sort().values))
        return found

    def drawn(self, loop: int, count: int | None = None) -> Tensor:
        return super().drawn(loop, self.count)


class Stale(Rescoring):
    """The whole pool is scored once. Then a fresh random part is scored anew, samples that the loop before trained on
    take the losses that training saw, and all others keep what they had last.

    A sample keeps the embedding and the logits of its last forward pass, also where its loss comes from training: that
    of the model in training mode, of an image under the training transform, from before the step that it made.
    """

    @classmethod
    def scored_later(cls, pool_size: int, fraction: float | None) -> int:
        return min(pool_size, max(1, _part(pool_size, fraction)))

    def candidates(self, boundary: Boundary) -> Candidates:
        if self.kept is None:
            self.kept = boundary.score(self.drawn(boundary.loop)).in_pool_order()
        else:
            trained = boundary.trained(boundary.loop - 1)
            seen = with_losses(self.kept, trained, boundary.training_losses())
            self.kept = renewed(seen, boundary.score(self.drawn(boundary.loop, self.count)))
        return self.kept


class Proxy(Rescoring):
    """The whole pool is scored once. Then a linear probe on those embeddings, fitted on all that the run has trained
    on, gives losses and logits: no forward pass.

    What could not be loaded when the pool was scored is no candidate in the whole run.
    """

    @classmethod
    def scored_later(cls, pool_size: int, fraction: float | None) -> int:
        return 0

    def candidates(self, boundary: Boundary) -> Candidates:
        if self.kept is None:
            self.kept = boundary.score(self.drawn(boundary.loop)).in_pool_order()
            return self.kept
        kept = self.kept
        trained = torch.cat([boundary.trained(loop) for loop in range(boundary.loop)])
        seen = kept.take(torch.isin(kept.indices, trained))
        # A single class tells a probe nothing: the last losses, still those of the model, stand.
        classes = 0 if seen.classes is None else len(seen.classes.unique())
        return boundary.probed(seen, kept) if classes > 1 else kept


RESCORING: dict[str, type[Rescoring]] = {"full": Full, "sampled": Sampled, "stale": Stale, "proxy": Proxy}


def part_of(pool: Pool, positions: Tensor, count: int, loop: int, class_balance: float = 0.0) -> Tensor:
    """A random part of these positions, rising: with labels, so many of each class; of a streamed pool whole shards.

    Args:
        pool: Theirs.
        positions: LongTensor [n].
        count: Of the part; shards have at least as many.
        loop: Each one draws anew; shards come in a random order, and none again before all have come.
        class_balance: How many of each class: as `candidate_set` takes it.

    Returns:
        LongTensor [m].
    """
    if pool.shards is not None and count < len(positions):
        drawn = pool.shards.part(positions, count, pool.seed, loop)
        tell_of_part(pool.labels, positions, drawn, count)
        return drawn
    labels = None if pool.labels is None else pool.labels[positions]
    generator = torch.Generator().manual_seed(seed_of(pool.seed, loop))
    return positions[candidate_set(len(positions), count, labels, generator, class_balance)]


def tell_of_part(labels: Tensor | None, pool: Tensor, drawn: Tensor, count: int) -> None:
    """Warn if the shards that were drawn hold far more samples than were asked for, or have other classes than the
    pool: they are no random parts of it then."""
    if len(drawn) > LARGER * count:
        logger.warning(
            "%d samples are scored where %d were asked for (scoring_fraction): shards are scored whole, and these are "
            "large. Give a stream of smaller ones, such as stream.reshard() makes of the row groups of Parquet files",
            len(drawn),
            count,
        )
    if labels is None or not len(drawn):
        return
    shares = [torch.bincount(labels[some].clamp(min=0), minlength=int(labels.max()) + 1) for some in (pool, drawn)]
    apart = float((shares[0] / len(pool) - shares[1] / len(drawn)).abs().sum()) / 2
    by_chance = 0.5 * (len(shares[0]) / len(drawn)) ** 0.5
    if apart > UNLIKE + by_chance:
        logger.warning(
            "the %d samples of the shards that are scored have other classes than the pool: %.0f %% of them would have "
            "to be of another class. Shards are scored whole, so that a loop selects from what they hold: shuffle the "
            "samples once, when the shards are written, or score more of them (scoring_fraction)",
            len(drawn),
            100 * apart,
        )


def with_losses(candidates: Candidates, indices: Tensor, losses: Tensor) -> Candidates:
    """The candidates, those of `indices` with their loss in `losses` [N] where that is finite."""
    latest = losses[candidates.indices]
    replaced = torch.isin(candidates.indices, indices) & latest.isfinite()
    return replace(candidates, losses=torch.where(replaced, latest, candidates.given("losses")))


def renewed(candidates: Candidates, fresh: Candidates) -> Candidates:
    """The fresh candidates, and those of the others that are not among them, in pool order; one may be none at all."""
    if not len(fresh) or not len(candidates):
        return fresh if len(fresh) else candidates
    rest = candidates.whole().take(~torch.isin(candidates.indices, fresh.indices)).tensors()
    fields = fresh.whole().tensors().items()
    together: dict[str, Any] = {name: torch.cat([rest[name], values]) for name, values in fields}
    return Candidates(**together).in_pool_order()


def _part(pool_size: int, fraction: float | None) -> int:
    return round((1.0 if fraction is None else fraction) * pool_size)


def _without(indices: Tensor, others: Tensor) -> Tensor:
    return indices[~torch.isin(indices, others)]
