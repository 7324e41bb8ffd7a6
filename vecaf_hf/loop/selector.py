"""One loop boundary: score the pool, augment the candidates, select, and settle what the loop's augmentation is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from vecaf_hf.agreement import decided_by_main
from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.augmentation import CEACallback
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.pool import Pool
from vecaf_hf.scoring.losses import SampleLoss
from vecaf_hf.scoring.rescoring import RESCORING, Boundary
from vecaf_hf.scoring.training_losses import TrainingLosses
from vecaf_hf.scoring.warmup import fit_head, flops_of_logits, linear_head, make_probe, rescored
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import STRATEGIES, Selection, Strategy, find_strategy, run_strategy
from vecaf_hf.selection.candidates import Candidates, Turn
from vecaf_hf.selection.jtt import mistakes

logger = logging.getLogger(__name__)


class Reselection:
    """Makes each loop's selection.

    Args:
        args: The run's options.
        budget: K.
        pool: What is selected from; its seed fixes, with the loop, everything random here.
        score: Candidates of these positions of the pool under the current model.
        head: The model's classification head, for its warm-up.
        sample_loss: (outputs, labels) -> [n], for the warm-up and the proxy.
        output_kind: Of what the model returns: the objective is given the like for a fitted head.
        training_losses: What training sees, where the run records it.
        cea: The run's augmentation, or None.
        meter: Counts the selection's work.
        accelerator: Its main process decides.

    Attributes:
        irreducible: Of each sample of the pool, for a strategy that needs it; NaN where it could not be loaded when the
            run began: these are not selected. [N], or None.
        mistaken: Whether the model got each sample of the pool wrong when the first training of JTT ended; None before.
            BoolTensor [N].
    """

    def __init__(
        self,
        args: VeCAFArguments,
        budget: int,
        pool: Pool,
        score: Callable[[Tensor], Candidates],
        head: nn.Module,
        sample_loss: SampleLoss,
        output_kind: str,
        training_losses: TrainingLosses | None,
        cea: CEACallback | None,
        meter: CostMeter,
        accelerator: Accelerator,
    ) -> None:
        self.args, self.budget, self.pool = args, budget, pool
        self.score, self.head = score, head
        self.sample_loss, self.output_kind = sample_loss, output_kind
        self.training_losses = training_losses
        self.cea, self.meter, self.accelerator = cea, meter, accelerator
        self.strategy = find_strategy(args.strategy)
        self.irreducible: Tensor | None = None
        self.mistaken: Tensor | None = None
        way, fraction = args.scoring_of(len(pool))
        balance = 0.0
        # Where selected samples stand for parts of the pool, what is scored must be like the pool.
        if self.strategy.allocates and args.sample_weights != "mass":
            balance = {"class": args.class_balance, "class_loss": 1.0}.get(args.allocation, 0.0)
        self.rescoring = RESCORING[way](pool, budget, fraction, balance)
        self._tell_of_few()

    def _tell_of_few(self) -> None:
        """Warn if there are more classes than a loop selects samples."""
        if self.pool.labels is None or not self.strategy.shares_by_class(self.args):
            return
        classes = len(self.pool.labels.unique())
        if self.budget < classes:
            logger.warning(
                "a selection has %d samples, fewer than the pool's %d classes: it leaves classes out, with equal "
                "shares others in each loop. Set selection_budget or selection_fraction higher",
                self.budget,
                classes,
            )

    def try_out(self, probe: Candidates) -> None:
        """Whatever the objective makes of a fitted head's output shows on these few candidates, before training."""
        if not self.args.head_warmup and not (self.args.scoring_way[0] == "proxy" and self.strategy.needs_forward):
            return
        assert probe.embeddings is not None
        with seeded(self.pool.seed):
            head = make_probe(self.head, probe.embeddings)
            # Logits that differ, as a fitted head's do.
            head.weight.data.copy_(torch.randn(head.weight.shape) / head.in_features**0.5)
            rescored(head, probe, self.sample_loss, self.output_kind)

    def selects_later(self, begun: int, loops: int) -> bool:
        """Whether anything is selected anew after as many loops of these have begun."""
        return begun < loops and not self.args.single_run

    def state(self, begun: int, loops: int) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps for the boundaries after as many loops of these have begun: scores, and losses of
        training."""
        selects = self.selects_later(begun, loops)
        losses = self.training_losses if selects else None
        return {
            "scores": self.rescoring.state() if selects and self.strategy.needs_forward else {},
            "training_losses": {} if losses is None else losses.state(),
        }

    def select(
        self,
        loop: int,
        progress: float,
        earlier: list[Selection],
        trained: Callable[[int], Tensor],
        is_trainable: Callable[[Selection], bool],
    ) -> tuple[Selection, Candidates, dict[str, float]]:
        """The selection of a loop after the earlier loops' ones, what it was made from, and figures for the log.

        Args:
            loop: 0-based.
            progress: Part of the run that is over.
            earlier: One selection a loop.
            trained: The samples that an earlier loop has trained on, rising. LongTensor [n].
            is_trainable: Whether the samples that the loop would train on can be loaded; the pool's ledger has the
                others.
        """
        seed = seed_of(self.pool.seed, loop)
        if self.cea is not None:
            self.cea.enter_loop(loop)
        # Transforms, models and strategies may draw from the global generators: not at the training's expense.
        with seeded(seed):
            if self.args.single_run and earlier:
                candidates, selection = self._unscored(), earlier[0]
            else:
                candidates = self._candidates(loop, seed, trained)
                selection = self._select_from(candidates, seed, progress, earlier)
                while not is_trainable(selection):
                    candidates = self._usable(candidates)
                    selection = self._select_from(candidates, seed, progress, earlier)
            figures = self._begin_augmentation(selection, candidates) if self.cea is not None else {}
        return selection, candidates, figures

    def find_mistakes(self, loop: int) -> Tensor:
        """`mistaken`, by a forward pass over the pool when this loop begins; False where a sample cannot be loaded."""
        with seeded(seed_of(self.pool.seed, loop)):
            scored = some(self.score(self.pool.ledger.usable))
        self.mistaken = torch.zeros(len(self.pool), dtype=torch.bool)
        self.mistaken[scored.indices] = mistakes(scored)
        return self.mistaken

    def _strategy_of(self, loop: int) -> Strategy:
        """In the first loop a learner has learned nothing: chance selects. JTT's first training is on all."""
        if "mistaken" in self.strategy.reads and self.mistaken is None:
            return STRATEGIES["full"]
        return STRATEGIES["random"] if self.strategy.learner is not None and loop == 0 else self.strategy

    def _unscored(self) -> Candidates:
        usable, labels = self.pool.ledger.usable, self.pool.labels
        return Candidates(usable, labels=None if labels is None else labels[usable])

    def _usable(self, candidates: Candidates) -> Candidates:
        usable = torch.isin(candidates.indices, self.pool.ledger.usable)
        if self.irreducible is not None:
            usable &= self.irreducible[candidates.indices].isfinite()
        return candidates if usable.all() else candidates.take(usable)

    def _candidates(self, loop: int, seed: int, trained: Callable[[int], Tensor]) -> Candidates:
        """What the strategy chooses from: scored only if it, or a warm-up of the head, needs that."""
        is_fresh = self.args.head_warmup and loop == 0
        if not (self._strategy_of(loop).needs_forward or is_fresh):
            return self._unscored()

        def score(indices: Tensor) -> Candidates:
            nonlocal is_fresh
            candidates = self._usable(self.score(indices))
            if not is_fresh or not len(candidates):
                return candidates
            is_fresh = False
            return self._fitted(self.head, candidates, candidates)

        def training_losses() -> Tensor:
            assert self.training_losses is not None
            return self.training_losses.gathered()

        boundary = Boundary(loop, seed, score, trained, training_losses, self._probed)
        return some(self._usable(self.rescoring.candidates(boundary)))

    def _probed(self, seen: Candidates, candidates: Candidates) -> Candidates:
        assert seen.embeddings is not None
        return self._fitted(make_probe(self.head, seen.embeddings), seen, candidates)

    def _fitted(self, head: nn.Module, seen: Candidates, candidates: Candidates) -> Candidates:
        """The candidates under a linear head that is fitted, the same in all processes, on those seen."""
        with self.meter.timed("select"):
            flops = decided_by_main(self.accelerator, partial(fit_head, head, seen))
            if self.accelerator.num_processes > 1:
                broadcast([parameter.data for parameter in head.parameters()])
            found = rescored(head, candidates, self.sample_loss, self.output_kind)
        assert candidates.embeddings is not None
        # What every process repeats counts once.
        self.meter.add("select", flops=flops + flops_of_logits(head, candidates.embeddings))
        return found

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
        if self.args.single_run or self.strategy.takes_all or scores_all or is_later:
            loops = 1
        for loop in range(1, loops):
            seed, candidates = seed_of(self.pool.seed, loop), replace(candidates, turn=Turn(self.pool.seed, loop))
            if self.strategy.needs_forward:
                parts.append(self.rescoring.drawn(seed))
            else:
                with seeded(seed):
                    parts.append(run_strategy(self.strategy, candidates, self.budget, self.args, seed).indices)
        return torch.cat(parts).unique()

    def _select_from(self, candidates: Candidates, seed: int, progress: float, earlier: list[Selection]) -> Selection:
        candidates, strategy = self._completed(candidates, progress, earlier), self._strategy_of(len(earlier))
        if self.cea is not None:
            candidates = self.cea.before_selection(candidates, "logits" in self.strategy.needs)

        def run() -> Selection:
            moved = candidates.to(self.accelerator.device)
            return run_strategy(strategy, moved, self.budget, self.args, seed)

        with self.meter.timed("select"):
            selection = decided_by_main(self.accelerator, run)
        self.meter.add("select", len(selection), selection.info.get("flops", 0.0))
        return selection

    def _completed(self, candidates: Candidates, progress: float, earlier: list[Selection]) -> Candidates:
        """The candidates with what no scoring pass gives."""
        past = torch.cat([selection.indices for selection in earlier]) if earlier else candidates.indices[:0]
        selected = torch.isin(candidates.indices, past)
        turn = Turn(self.pool.seed, len(earlier))
        candidates = replace(self._grouped(candidates), selected=selected, progress=progress, turn=turn)
        if self.strategy.allocates and self.pool.labels is not None:
            candidates = replace(candidates, class_sizes=self._class_sizes(self.pool.labels)[candidates.indices])
        if "head" in self.strategy.reads:
            candidates = replace(candidates, head=linear_head(self.head, self.args.strategy))
        if self.irreducible is not None:
            candidates = replace(candidates, irreducible=self.irreducible[candidates.indices])
        if self.mistaken is not None:
            candidates = replace(candidates, mistaken=self.mistaken[candidates.indices])
        if "training_losses" in self.strategy.reads:
            assert self.training_losses is not None
            candidates = replace(candidates, training_losses=self.training_losses.gathered()[candidates.indices])
        return candidates

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

    def _begin_augmentation(self, selection: Selection, candidates: Candidates) -> dict[str, float]:
        assert self.cea is not None
        scored = candidates.embeddings is not None
        if scored:
            selected = candidates.take(torch.isin(candidates.indices, selection.indices))
        else:
            selected = some(self.score(selection.indices.sort().values))
        return self.cea.begin_loop(selected, refit=not scored)


def some(scored: Candidates) -> Candidates:
    """These candidates.

    Raises:
        ValueError: There are none.
    """
    if not len(scored):
        raise ValueError("none of the samples could be loaded: mend the dataset")
    return scored
