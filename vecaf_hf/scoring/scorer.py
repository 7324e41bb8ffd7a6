"""What the current model thinks of samples of the pool: by a forward pass, from kept scores, or by a fitted head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from vecaf_hf.agreement import decided_by_main, done_together
from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.checks import check_same_classes
from vecaf_hf.data.pool import Pool
from vecaf_hf.scoring.appearance import appearance_in
from vecaf_hf.scoring.entering import Head
from vecaf_hf.scoring.forward_pass import ForwardPass, Wanted
from vecaf_hf.scoring.irreducible import irreducible_losses
from vecaf_hf.scoring.kept_scores import KeptScores
from vecaf_hf.scoring.linear_heads import (
    PROBE_TOLERANCE,
    fit_head,
    flops_of_logits,
    linear_head,
    make_probe,
    rescored,
)
from vecaf_hf.scoring.memory import FittingBatches
from vecaf_hf.scoring.objective import Objective
from vecaf_hf.scoring.precision import scoring_precision
from vecaf_hf.scoring.sharded import is_sharded, whole_copy
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import find_strategy
from vecaf_hf.selection.candidates import Candidates, LinearHead
from vecaf_hf.selection.jtt import mistakes

# Ways of scoring whose losses and embeddings are all of the model as it is.
OF_THE_MODEL = ("full", "sampled")
# Those whose embeddings may stay in the process that made them.
IN_SHARES = (*OF_THE_MODEL, "proxy")
# Samples that a run tries before it trains.
PROBED_SAMPLES = 16
PROXY_WITHOUT_CLASSES = 'rescore="proxy" needs one class per sample: choose rescore="stale" or "full"'


class Watcher(Protocol):
    """What learns beside the model, and so must see its forward passes."""

    @property
    def is_learning(self) -> bool: ...

    def observed(self, inputs: Mapping[str, Any], count: int) -> AbstractContextManager[dict[str, Tensor]]: ...

    def before_scoring(self) -> None: ...


class Scorer:
    """Gives candidates their embeddings, losses, logits and labels; the same in every process, but for embeddings that
    stay in the one that made them.

    Args:
        pool: What is scored. Its `args` are the run's.
        model: Scored by its weights as they are at each call.
        has_cea: Whether CEA moves what enters the head.
        objective: Gives each sample's loss.
        meter: Counts the work.
        watcher: Sees the forward passes.

    Attributes:
        output_kind: Of what the model returns: the objective is given the like for a fitted head.
        kept: The untrained model's scores in `score_cache`; None without, and before `probe`.
        is_trained: Whether the model has made a step: what is kept is of another one then.
        evaluated_weights: A block in which the model has the weights that it is evaluated with; it begins before
            anything is scored.
    """

    def __init__(
        self, pool: Pool, model: Any, has_cea: bool, objective: Objective, meter: CostMeter, watcher: Watcher
    ) -> None:
        self.pool, self.args, self.accelerator = pool, pool.args, pool.accelerator
        self.model, self.objective = model, objective
        self.meter, self.watcher = meter, watcher
        self.strategy = find_strategy(self.args.strategy)
        self.keeps_logits = bool(self.strategy.reads & {"logits", "mistaken"})
        # Of what conditions may be found in.
        self.keeps_appearance = self.args.scoring_way[0] in OF_THE_MODEL
        self.head_of_model = Head(model, self.args.head, _reader(self.args, has_cea), not _makes_logits(self.args))
        self.output_kind = "ModelOutput"
        self.kept: KeptScores | None = None
        self.is_trained = False
        self.evaluated_weights: Callable[[], AbstractContextManager[None]] = nullcontext
        self._fitting = FittingBatches()

    def go_by(self, args: VeCAFArguments) -> None:
        """Other options, the pool's too, whose strategy needs no more of a forward pass."""
        self.args = self.pool.args = args
        self.strategy = find_strategy(args.strategy)

    # --- By a forward pass ---

    def score(self, indices: Tensor, with_losses: bool = True, keeps_shares: bool = False) -> Candidates:
        """These positions of the pool as the run scores them, without those that cannot be loaded. LongTensor [M].
        With `keeps_shares`, for positions that rise, embeddings may stay in the process that made them."""
        # What a learner observes, and what a trained model thinks, no folder has.
        if self.kept is not None and not self.is_trained and not self.watcher.is_learning:
            return self.kept.score(indices)
        size = self.args.scoring_image_size
        return self.score_at(indices, Wanted(with_losses, image_size=size, shares=keeps_shares))

    def score_at(self, indices: Tensor, wanted: Wanted, pool: Pool | None = None) -> Candidates:
        """By a forward pass; of another pool, if one is given. Logits and precisions are the run's; so is that in which
        the model works, unless `wanted` says."""
        pool = self.pool if pool is None else pool
        bf16 = self.args.scoring_bf16 if wanted.bf16 is None else wanted.bf16
        wanted = replace(wanted, logits=self.keeps_logits, half_embeddings=self.args.half_embeddings, bf16=bf16)
        forward = ForwardPass(self.accelerator, self.objective, pool, self.meter, wanted, self._fitting, self._observed)
        self.watcher.before_scoring()
        scored = forward.score(self.model, self.head_of_model, indices)
        self.output_kind = forward.output_kind or self.output_kind
        return pool.without_ignored(scored)

    @contextmanager
    def _observed(self, inputs: Mapping[str, Any], count: int) -> Iterator[dict[str, Tensor]]:
        """What the watcher sees in a forward pass, and how the images look where candidates get embeddings too."""
        further: dict[str, Tensor] = {}
        with self.watcher.observed(inputs, count) as seen:
            yield further
        further |= seen
        if self.keeps_appearance and self.head_of_model.reader:
            found = appearance_in(self.model, inputs)
            further |= {} if found is None else {"appearance": found}

    def precision(self) -> AbstractContextManager[None]:
        """A block in the precision of scoring passes."""
        return scoring_precision(self.accelerator, self.args.scoring_bf16)

    @property
    def head(self) -> nn.Module:
        """The classification head, where something reads embeddings."""
        return self.head_of_model.module

    @property
    def whole_head(self) -> nn.Module:
        """The head with all of its weights, to be read: a copy where processes have parts of it. Each must call it."""
        return whole_copy(self.model, self.head)

    def look_at_embeddings(self, reader: str) -> None:
        """Candidates are to have their embeddings in any case: this reader wants them."""
        if not self.head_of_model.reader:
            self.head_of_model = Head(self.model, self.args.head, reader, not _makes_logits(self.args))

    def check_head(self) -> None:
        """Raise a ValueError if the head is not linear, and what the run does with it needs that."""
        if is_sharded(self.head):
            raise ValueError(
                "fsdp_auto_wrap_policy shares out the head by itself, and embeddings are taken before it: choose "
                "TRANSFORMER_BASED_WRAP, with the class of the model's blocks as fsdp_transformer_layer_cls_to_wrap"
            )
        if "head" in self.strategy.reads:
            self.linear_head()

    @property
    def reads_losses(self) -> bool:
        """Whether the run goes by samples' losses, or weighs them."""
        reads = {"losses", "training_losses", "irreducible", "learned_scores"}
        return bool(self.strategy.reads & reads) or self.strategy.weighs

    def accept_objective(self) -> None:
        """Samples' losses are used: once they must have been compared with what training minimises, on a few samples.

        Raises:
            ValueError: The objective is no mean of samples' losses.
        """
        if not self.objective.is_accepted and self.objective.reference is not None:
            self.score_at(self._some(), Wanted(check_loss=True))
        self.objective.is_accepted = True

    def probe(self) -> Candidates:
        """A few samples through collator, model, head and loss: whatever is wrong with them shows before training.

        Raises:
            ValueError: What is wrong.
        """
        pool, size = self.pool, self.args.scoring_image_size
        pool.forget_samples()
        indices = self._some()
        if pool.scoring_dataset is not pool.dataset:
            self.check_trainable(indices)
        # At full size too: these forwards, which are not counted, tell what training and evaluation cost.
        check_loss = self.reads_losses and not self.objective.is_accepted
        # Where nobody looks at samples' losses, there may be none.
        looks = check_loss or self.strategy.needs_forward or self.args.score_cache is not None
        probe = not_empty(self.score_at(indices, Wanted(looks, check_loss=check_loss)))
        self.objective.is_accepted |= check_loss
        if self.head_of_model.reader:
            self.check_head()
        if size is not None:
            probe = not_empty(self.score_at(indices, Wanted(looks, image_size=size, image_size_is_new=True)))
        check_same_classes(pool.labels, probe)
        if probe.classes is None and self.args.scoring_way[0] == "proxy":
            raise ValueError(PROXY_WITHOUT_CLASSES)
        if "mistaken" in self.strategy.reads:
            mistakes(probe)
        folder = self.args.score_cache
        self.kept = None if folder is None or probe.embeddings is None else KeptScores(folder, self, probe)
        return probe

    def _some(self) -> Tensor:
        """A few samples, evenly spaced. LongTensor [n]."""
        usable = self.pool.ledger.usable
        return self.pool.some(usable, PROBED_SAMPLES)

    def check_trainable(self, indices: Tensor) -> bool:
        """`Pool.check_trainable`, timed: the price of a selection too."""
        with self.meter.timed("score"):
            return self.pool.check_trainable(indices)

    # --- By a head on embeddings ---

    def try_out(self, probe: Candidates) -> None:
        """Whatever the objective makes of a probe's output shows on these few candidates, before training."""
        if self.args.scoring_way[0] != "proxy" or not self.strategy.needs_forward:
            return
        with seeded(self.pool.seed):
            head = make_probe(self.whole_head, probe.given("embeddings"))
            # Logits that differ, as a fitted head's do.
            head.weight.data.copy_(torch.randn(head.weight.shape) / head.in_features**0.5)
            rescored(head, probe, self.objective.sample_losses, self.output_kind)

    def linear_head(self) -> LinearHead:
        """The head, for a strategy that turns embeddings into logits; a ValueError where it is not linear."""
        return linear_head(self.whole_head, self.args.strategy)

    def probed(self, seen: Candidates, candidates: Candidates) -> Candidates:
        """The candidates under a linear probe that is fitted, the same in all processes, on those seen in training."""
        seen = seen.whole()
        probe = make_probe(self.whole_head, seen.given("embeddings"))
        with self.meter.timed("select"):
            flops = decided_by_main(self.accelerator, partial(fit_head, probe, seen, PROBE_TOLERANCE))
            if self.accelerator.num_processes > 1:
                broadcast([parameter.data for parameter in probe.parameters()])
            score = partial(rescored, probe, sample_loss=self.objective.sample_losses, kind=self.output_kind)
            found = in_shares(self.accelerator, score, candidates)
        # What every process repeats, or does its share of, counts once.
        self.meter.add("select", flops=flops + flops_of_logits(probe, candidates.held_embeddings))
        return found

    def irreducible_losses(self, held_out: Pool, num_classes: int) -> Tensor:
        """Of each sample of the pool, for RHO-LOSS; NaN where it cannot be loaded. [N]."""
        pool = self.pool
        # Transforms may draw from the global generators: not at the training's expense.
        with seeded(seed_of(pool.seed)):
            wanted = Wanted(image_size=self.args.scoring_image_size)
            known = self.score_at(torch.arange(len(held_out)), wanted, held_out)
            scored = self.score(torch.arange(len(pool)))
        fit = partial(irreducible_losses, known, scored, self.objective.sample_losses, num_classes, self.output_kind)
        with self.meter.timed("select"):
            losses, flops = decided_by_main(self.accelerator, fit)
        self.meter.add("select", flops=flops)
        return losses.new_full((len(pool),), torch.nan).index_copy(0, scored.indices, losses)


def in_shares(accelerator: Accelerator, work: Callable[[Candidates], Candidates], candidates: Candidates) -> Candidates:
    """What `work` makes of candidates; together, as `done_together`, where each process holds a share of embeddings."""
    if candidates.shared_embeddings is None:
        return work(candidates)
    return done_together(accelerator, lambda together: work(candidates.among(together)))


def _reader(args: VeCAFArguments, has_cea: bool) -> str:
    """Who reads the embedding that enters the head; "" if nobody does."""
    strategy = find_strategy(args.strategy)
    readers = {
        f"strategy {args.strategy!r}": bool(strategy.reads & {"embeddings", "head", "irreducible"}),
        "CEA": has_cea,
        'rescore="proxy"': args.scoring_way[0] == "proxy" and strategy.needs_forward,
        "score_cache": args.score_cache is not None and strategy.needs_forward,
    }
    return next((reader for reader, reads in readers.items() if reads), "")


def _makes_logits(args: VeCAFArguments) -> bool:
    """Whether logits are made by the head alone, without the rest of the model."""
    reads = find_strategy(args.strategy).reads & {"head", "irreducible"}
    return bool(reads) or args.scoring_way[0] == "proxy" or args.score_cache is not None


def not_empty(scored: Candidates) -> Candidates:
    """These candidates.

    Raises:
        ValueError: There are none.
    """
    if not len(scored):
        raise ValueError("none of the samples could be loaded: mend the dataset")
    return scored
