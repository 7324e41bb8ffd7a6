"""One loop boundary: score the pool, augment the candidates, select, and settle what the loop's augmentation is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vecaf_hf.agreement import decided_by_main, done_together
from vecaf_hf.arguments import RESCORE
from vecaf_hf.augmentation.running import RunningCEA
from vecaf_hf.conditions.selecting_for import SelectingFor
from vecaf_hf.data.pool import Pool
from vecaf_hf.loop.class_shares import tell_of_shares
from vecaf_hf.loop.fingerprint import check_same_selection
from vecaf_hf.loop.remembered import Remembered
from vecaf_hf.scoring.rescoring import RESCORING, Boundary
from vecaf_hf.scoring.scorer import IN_SHARES, Scorer, in_shares, not_empty
from vecaf_hf.scoring.training_losses import TrainingLosses
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import STRATEGIES, Selection, Strategy, run_strategy
from vecaf_hf.selection.candidates import Candidates, Turn
from vecaf_hf.selection.jtt import mistakes
from vecaf_hf.text.captions import texts_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Past:
    """What came before a boundary.

    Args:
        selections: One of each earlier loop.
        progress: Part of the run that is over.
        trained: The samples that an earlier loop has trained on, rising. LongTensor [n].
    """

    selections: Sequence[Selection]
    progress: float
    trained: Callable[[int], Tensor]

    @property
    def loop(self) -> int:
        """The loop that begins, 0-based."""
        return len(self.selections)


class Selector:
    """Makes each loop's selection.

    Args:
        budget: K.
        scorer: Its pool is selected from; the pool's seed fixes, with the loop, everything random here.
        cea: CEA of the run, or None.

    Attributes:
        rescoring: Which samples are scored at a boundary.
        selecting_for: Weighs samples that are like a condition, or None.
        training_losses: What training sees, where something goes by it; else None.
        irreducible: Of each sample of the pool, for a strategy that needs it; NaN where it could not be loaded when the
            run began: these are not selected. [N], or None.
        mistaken: Whether the model got each sample of the pool wrong when the first training of JTT ended; None before.
            BoolTensor [N].
        remembered: What boundaries have scored, for `conditions`.
    """

    def __init__(self, budget: int, scorer: Scorer, cea: RunningCEA | None) -> None:
        self.budget, self.scorer, self.cea = budget, scorer, cea
        self.pool, self.strategy = scorer.pool, scorer.strategy
        self.args = scorer.args
        self.irreducible: Tensor | None = None
        self.mistaken: Tensor | None = None
        self.remembered = Remembered(self.args)
        self.selecting_for: SelectingFor | None = None
        if self.args.select_for is not None:
            captions = None
            if any(isinstance(one, str) for one in self.args.select_for):
                captions = texts_of(cea.pool_texts.given if cea else None, self.pool.dataset, None, [])
            self.selecting_for = SelectingFor(self.args.select_for, captions, len(self.pool))
        way, fraction = self.args.scoring_of(len(self.pool))
        balance = 0.0
        if "allocation" in self.strategy.heeds:
            balance = {"class": self.args.class_balance, "class_loss": 1.0}.get(self.args.allocation, 0.0)
        self.rescoring = RESCORING[way](self.pool, budget, fraction, balance)
        accelerator = scorer.accelerator
        self.training_losses = TrainingLosses(len(self.pool), accelerator) if self._reads_training else None
        self._tell_of_classes()

    @property
    def _reads_training(self) -> bool:
        rescores = self.strategy.needs_forward and not self.args.single_run
        way = RESCORE[self.args.scoring_way[0]]
        return "training_losses" in self.strategy.reads or (rescores and way.reads_training_losses)

    @property
    def _due(self) -> int:
        """K, or fewer where training ignores more of the pool than K leaves; where nobody chose K, where less of it can
        be loaded too."""
        most = int((~self.pool.ignored).sum()) if self.args.has_budget else len(self.pool.ledger.usable)
        return min(self.budget, most)

    def _tell_of_classes(self) -> None:
        """What equal shares do to the classes; a warning if there are more of them than a loop selects samples."""
        if self.pool.labels is None or not self.strategy.shares_by_class(self.args):
            return
        labels = self.pool.labels[~self.pool.ignored]
        if self.budget < len(labels):
            tell_of_shares(labels, self.args)
        classes = len(labels.unique())
        if self.budget < classes:
            logger.warning(
                "a selection has %d samples, fewer than the pool's %d classes: it leaves classes out, with equal "
                "shares others in each loop. Set selection_budget or selection_fraction higher",
                self.budget,
                classes,
            )

    # --- A run ---

    def begin(self, held_out: Pool | None, num_classes: int) -> None:
        """Before the first boundary of a run that does not resume: what a strategy asks of the untrained model.

        Args:
            held_out: Samples that RHO-LOSS fits its small model on.
            num_classes: C.
        """
        if held_out is not None:
            self.irreducible = self.scorer.irreducible_losses(held_out, num_classes)

    def selects_after(self, begun: int, loops: int) -> bool:
        """Whether anything is selected anew after as many loops of these have begun."""
        return begun < loops and not self.args.single_run

    def state_dict(self, selects_again: bool = True) -> dict[str, Tensor]:
        """What a checkpoint keeps; for the next boundaries only if there are any."""
        ignored = self.pool.ignored if self.pool.ignored.any() else None
        own = {"irreducible": self.irreducible, "mistaken": self.mistaken, "ignored": ignored}
        state = {name: values for name, values in own.items() if values is not None}
        if hasattr(self.args.strategy, "state_dict"):
            state |= {f"strategy.{name}": _kept(value) for name, value in self.args.strategy.state_dict().items()}
        if selects_again and self.strategy.needs_forward:
            state |= {f"scores.{name}": values for name, values in self.rescoring.state_dict().items()}
        if selects_again and self.training_losses is not None:
            state |= {f"losses.{name}": values for name, values in self.training_losses.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        self.irreducible, self.mistaken = state.get("irreducible"), state.get("mistaken")
        if "ignored" in state:
            # As far as it was known: who is drawn to be scored depends on it.
            self.pool.ignored |= state["ignored"]
        if hasattr(self.args.strategy, "load_state_dict"):
            self.args.strategy.load_state_dict(_part(state, "strategy"))
        self.rescoring.load_state_dict(_part(state, "scores"))
        losses = _part(state, "losses")
        if self.training_losses is not None and losses:
            self.training_losses.load_state_dict(losses)

    def foreseen(self, loops: int) -> Tensor:
        """What the loops after the first of this many will load, where the seed alone decides it. LongTensor [n]."""
        candidates = self._grouped(self._unscored())
        if "mistaken" in self.strategy.reads:
            return candidates.indices
        parts = [torch.empty(0, dtype=torch.long)]
        # These load in the first loop whatever they load at all.
        scores_all = self.strategy.needs_forward and self.rescoring.begins_with_all
        # What training or captions decide, only the boundary itself can tell.
        by_captions = self.cea is not None and self.cea.has_affinity and not self.strategy.needs_forward
        is_later = by_captions or "training_losses" in self.strategy.reads
        if self.args.single_run or self.strategy.size == "all" or scores_all or is_later:
            loops = 1
        for loop in range(1, loops):
            seed, candidates = seed_of(self.pool.seed, loop), replace(candidates, turn=Turn(self.pool.seed, loop))
            if self.strategy.needs_forward:
                parts.append(self.rescoring.drawn(loop))
            else:
                with seeded(seed):
                    parts.append(run_strategy(self.strategy, candidates, self._due, self.args, seed).indices)
        return torch.cat(parts).unique()

    # --- A boundary ---

    def select(
        self, past: Past, is_trainable: Callable[[Selection], bool]
    ) -> tuple[Selection, Candidates, dict[str, float]]:
        """The selection of the loop that begins, what it was made from, and figures for the log.

        Args:
            past: What came before.
            is_trainable: Whether the samples that the loop would train on can be loaded; the pool's ledger has the
                others.
        """
        seed = seed_of(self.pool.seed, past.loop)
        if self.cea is not None:
            self.cea.enter_loop(past.loop)
        # Transforms, models and strategies may draw from the global generators: not at the training's expense.
        with seeded(seed):
            if self.args.single_run and past.selections:
                candidates, selection = self._unscored(), past.selections[0]
            else:
                candidates = self._candidates(past, seed)
                selection = self._select_from(candidates, seed, past)
                while not is_trainable(selection):
                    candidates = self._usable(candidates)
                    selection = self._select_from(candidates, seed, past)
            figures = {} if self.cea is None else self._begin_augmentation(self.cea, selection, candidates)
        if self.selecting_for is not None and candidates.losses is not None:
            figures |= self.selecting_for.figures
        head = None if self.scorer.head_of_model.found is None else self.scorer.whole_head
        self.remembered.take(past.loop, candidates, head)
        kept = self.scorer.kept
        if past.loop == 0 and kept is not None and kept.hit is not None:
            figures["score_cache_hit"] = float(kept.hit)
        return selection, candidates, figures

    def find_mistakes(self, loop: int) -> None:
        """`mistaken`, by a forward pass over the pool when this loop begins; False where a sample cannot be loaded."""
        with seeded(seed_of(self.pool.seed, loop)):
            scored = not_empty(self.scorer.score(self.pool.ledger.usable, with_losses=False))
        self.mistaken = torch.zeros(len(self.pool), dtype=torch.bool)
        self.mistaken[scored.indices] = mistakes(scored)

    def _strategy_of(self, loop: int) -> Strategy:
        """In the first loop a learner has learned nothing: chance selects. JTT's first training is on all."""
        if "mistaken" in self.strategy.reads and self.mistaken is None:
            return STRATEGIES["full"]
        return STRATEGIES["random"] if self.strategy.learns and loop == 0 else self.strategy

    def _unscored(self) -> Candidates:
        usable, labels = self.pool.ledger.usable, self.pool.labels
        return Candidates(usable, labels=None if labels is None else labels[usable])

    def _usable(self, candidates: Candidates) -> Candidates:
        usable = torch.isin(candidates.indices, self.pool.ledger.usable)
        if self.irreducible is not None:
            usable &= self.irreducible[candidates.indices].isfinite()
        return candidates if usable.all() else candidates.take(usable)

    def _candidates(self, past: Past, seed: int) -> Candidates:
        """What the strategy chooses from: scored only if it needs that."""
        strategy = self._strategy_of(past.loop)
        if not strategy.needs_forward:
            return self._unscored()
        shares = "processes" in strategy.reads and self.args.scoring_way[0] in IN_SHARES

        def score(indices: Tensor) -> Candidates:
            return self._usable(self.scorer.score(indices, keeps_shares=shares))

        boundary = Boundary(past.loop, seed, score, past.trained, self._losses_of_training, self.scorer.probed)
        return not_empty(self._usable(self.rescoring.candidates(boundary)))

    def _losses_of_training(self) -> Tensor:
        if self.training_losses is None:
            raise RuntimeError("no losses of training were recorded; this is a bug in vecaf_hf")
        return self.training_losses.gathered()

    def _select_from(self, candidates: Candidates, seed: int, past: Past) -> Selection:
        candidates, strategy = self._completed(candidates, past), self._strategy_of(past.loop)
        if self.cea is not None:
            moved = partial(self.cea.before_selection, go_by_logits="logits" in self.strategy.needs)
            candidates = in_shares(self.scorer.accelerator, moved, candidates)
        if self.selecting_for is not None:
            candidates = self.selecting_for(candidates)
        accelerator, meter = self.scorer.accelerator, self.scorer.meter

        def run(candidates: Candidates) -> Selection:
            return run_strategy(strategy, candidates.to(accelerator.device), self._due, self.args, seed)

        with meter.timed("select"):
            if "processes" in strategy.reads:
                selection = done_together(accelerator, lambda all_: run(candidates.among(all_)))
            else:
                selection = decided_by_main(accelerator, partial(run, candidates))
        # Before anything is done with it: each process holds embeddings of its own.
        check_same_selection(accelerator, selection, past.loop)
        meter.add("select", len(selection), selection.info.get("flops", 0.0))
        # Of a stream these are all that is loaded from now on.
        with meter.timed("score"):
            self.pool.keep(selection.indices)
        return selection

    def _completed(self, candidates: Candidates, past: Past) -> Candidates:
        """The candidates with what no scoring pass gives."""
        indices, reads = candidates.indices, self.strategy.reads
        earlier = torch.cat([indices[:0], *(selection.indices for selection in past.selections)])
        more: dict[str, Any] = {
            "selected": torch.isin(indices, earlier),
            "progress": past.progress,
            "turn": Turn(self.pool.seed, past.loop),
        }
        if "allocation" in self.strategy.heeds and self.pool.labels is not None:
            more["class_sizes"] = self._class_sizes(self.pool.labels)[indices]
        if "head" in reads:
            more["head"] = self.scorer.linear_head()
        if self.irreducible is not None:
            more["irreducible"] = self.irreducible[indices]
        if self.mistaken is not None:
            more["mistaken"] = self.mistaken[indices]
        if "training_losses" in reads:
            more["training_losses"] = self._losses_of_training()[indices]
        return replace(self._grouped(self.pool.with_classes(candidates)), **more)

    def _class_sizes(self, labels: Tensor) -> Tensor:
        """How many samples that can be loaded have each sample's class. LongTensor [N]."""
        _, classes = labels.unique(return_inverse=True)
        return torch.bincount(classes[self.pool.ledger.usable], minlength=len(classes))[classes]

    def _grouped(self, candidates: Candidates) -> Candidates:
        """The candidates, with their groups for the strategy that is to see them."""
        groups = self.pool.groups
        if groups is None or "groups" not in self.strategy.reads:
            return candidates
        return replace(candidates, groups=groups[candidates.indices])

    def _begin_augmentation(self, cea: RunningCEA, selection: Selection, candidates: Candidates) -> dict[str, float]:
        scored = candidates.has_embeddings
        if scored:
            selected = candidates.take(torch.isin(candidates.indices, selection.indices)).whole()
        else:
            selected = not_empty(self.scorer.score(selection.indices.sort().values, with_losses=False))
        return cea.begin_loop(selected, refit=not scored)


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): values for key, values in state.items() if key.startswith(prefix)}


def _kept(value: Any) -> Tensor:
    # A tensor of a Python number has half its digits unless told otherwise.
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else torch.as_tensor(value)
