"""What a learner needs of a run: its place in each batch, in the optimizer, on several processes and in the costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object, reduce
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.cost import CostMeter
from vecaf_hf.learners import LEARNERS
from vecaf_hf.learners.learner import Learner, Run
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection import Selection, find_strategy
from vecaf_hf.selection.candidates import Candidates


class Schedule(Protocol):
    """The sizes of a run that a learner is told: those of `LoopSchedule`."""

    @property
    def total_updates(self) -> int: ...
    @property
    def samples_per_update(self) -> int: ...
    @property
    def gradient_accumulation_steps(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def budget(self) -> int: ...
    @property
    def seed(self) -> int: ...


class Teaching(TrainerCallback):
    """Teaches the strategy's learner while the model trains; does nothing for a strategy that has none.

    The model's optimizer trains the learner's parameters, which are not in the model: what Accelerate,
    DistributedDataParallel and Trainer do to the model's gradients is done here to theirs.

    Args:
        args: The run's options.
        accelerator: The processes that learn together.

    Attributes:
        learner: Of the run that is going on; None between runs.
    """

    def __init__(self, args: VeCAFArguments, accelerator: Accelerator) -> None:
        self.args, self.accelerator = args, accelerator
        self.learner: Learner | None = None
        self._built = False
        self._sizes: Any = None
        # In the optimizer, since the run began.
        self._joined: Sequence[nn.Parameter] = ()

    # --- A run ---

    def make(self, model: nn.Module, schedule: Schedule, meter: CostMeter) -> Learner | None:
        """The strategy's learner, if it has one; what does not fit shows here, before anything is loaded.

        Raises:
            ValueError: The model or the run does not fit.
        """
        if not self.teaches:
            return None
        if self.args.single_run:
            raise ValueError(
                f"single_run selects before anything is learned, and strategy {self.args.strategy!r} by what it "
                "learns: set single_run=False, or strategy='random'"
            )
        if self.args.strategy not in LEARNERS:
            raise ValueError(
                f"strategy {self.args.strategy!r} needs learned_scores, and nothing learns them: put its learner into "
                "vecaf_hf.learners.LEARNERS"
            )
        world, device = self.accelerator.num_processes, self.accelerator.device

        @contextmanager
        def counted(name: str, samples: int, factor: int = 1) -> Iterator[None]:
            with meter.timed("auxiliary"), meter.forward("auxiliary", samples, world, name, factor):
                yield

        run = Run(
            strategy=str(self.args.strategy),
            total_updates=schedule.total_updates,
            batch_size=schedule.samples_per_update // (schedule.gradient_accumulation_steps * schedule.world_size),
            budget=schedule.budget,
            seed=schedule.seed,
            device=device,
            rank=self.accelerator.process_index,
            average=self._averaged,
            counted=counted,
        )
        return LEARNERS[self.args.strategy](model, run)

    def begin(self, model: nn.Module, schedule: Schedule, meter: CostMeter) -> None:
        """A run begins; the first pass that `observed` sees will show what the networks must be."""
        self._detach()
        self.learner, self._built, self._sizes = self.make(model, schedule, meter), False, None
        self._seed = schedule.seed
        if self.learner is not None:
            self.learner.attach()

    @property
    def teaches(self) -> bool:
        """Whether the strategy has a learner."""
        return find_strategy(self.args.strategy).learns

    @property
    def is_learning(self) -> bool:
        """Whether a learner learns in the run that is going on."""
        return self.learner is not None

    def build(self) -> None:
        if self.learner is not None:
            # A process that could load no sample learns from another one.
            sizes = next(sizes for sizes in gather_object([self._sizes]) if sizes is not None)
            with seeded(seed_of(self._seed)):
                self.learner.build(sizes)
            self._built = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._detach()

    def _detach(self) -> None:
        if self.learner is not None:
            self.learner.detach()
            self.learner = None

    # --- A training step ---

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block the model's forward pass is that of a training batch."""
        if self.learner is None:
            yield
        else:
            with self.learner.watching():
                yield

    def taught(self, loss: Tensor, losses: Tensor, step: int, accumulated: int) -> Tensor:
        """The batch's loss with the learner's gradient, at its own value: the log shows what the model is finetuned on.

        Args:
            loss: What Trainer is given, [].
            losses: Of each sample, without a gradient. [n].
            step: Optimizer steps done.
            accumulated: Micro-batches over which `loss` is already a mean.
        """
        assert self.learner is not None
        with torch.autocast(loss.device.type, enabled=False):
            own = self.learner.loss(losses.float(), step) / accumulated
        return loss + (own - own.detach())

    def after_backward(self) -> None:
        """Before a gradient scaler looks at the gradients: it must find the same in all processes, each calls it."""
        if self.accelerator.sync_gradients:
            for parameter in self.learned_parameters():
                if parameter.grad is not None:
                    parameter.grad = self._averaged(parameter.grad)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.max_grad_norm and self.learned_parameters():
            nn.utils.clip_grad_norm_(self.learned_parameters(), args.max_grad_norm)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.learner is not None:
            for parameter in self.learner.parameters():
                parameter.grad = None
            self.learner.step(state.global_step)

    def _averaged(self, values: Tensor) -> Tensor:
        return reduce(values, reduction="mean") if self.accelerator.num_processes > 1 else values

    # --- In the model's optimizer ---

    def learned_parameters(self) -> list[nn.Parameter]:
        """What the model's optimizer trains besides the model."""
        return [] if self.learner is None else self.learner.parameters()

    def join(self, optimizer: Any) -> None:
        """Have the model's optimizer train the parameters in one of its groups, and no longer those of an earlier run.

        Not in a new group: a schedule that was made before has no entry for it (torch 2.14 raises a ValueError).

        Raises:
            ValueError: The optimizer trains nothing but what it was made with.
        """
        learned, earlier = self.learned_parameters(), {id(parameter) for parameter in self._joined}
        # The stand-in for an optimizer that DeepSpeed is to make has no groups.
        if not learned and not earlier:
            return
        for group in optimizer.param_groups:
            kept = [id(parameter) not in earlier for parameter in group["params"]]
            for key in group.keys() & {"params", "param_names"}:
                group[key] = list(compress(group[key], kept))
        for parameter in self._joined:
            optimizer.state.pop(parameter, None)
        self._joined = learned
        if not learned:
            return
        inner = getattr(optimizer, "optimizer", optimizer)
        if isinstance(inner, LayerWiseDummyOptimizer) or hasattr(inner, "fused_backward"):
            raise ValueError(
                "optimizers that step in the backward pass (layerwise ones, LOMO) train the model's own parameters "
                "alone, and the strategy's learner is to be trained too: choose another optim"
            )
        group = max(optimizer.param_groups, key=_suits)
        group["params"] += learned
        if "param_names" in group:
            group["param_names"] += [f"{type(self).__name__}.{number}" for number in range(len(learned))]

    # --- A loop boundary ---

    @contextmanager
    def observed(self, inputs: Mapping[str, Any], count: int) -> Iterator[dict[str, Tensor]]:
        """Inside the block the model makes a forward pass over samples of the pool; after it the dictionary has what
        the learner makes of them, fields of their candidates."""
        found: dict[str, Tensor] = {}
        if self.learner is None:
            yield found
            return
        with self.learner.watching():
            yield found
        with torch.autocast(self.accelerator.device.type, enabled=False):
            if self._built:
                found |= self.learner.scores(inputs, count)
            else:
                self._sizes = self.learner.sizes(inputs, count)

    def before_scoring(self) -> None:
        """Statistics of BatchNorm differ between processes: all score with those of the main one."""
        if self._built and self.learner is not None and self.accelerator.num_processes > 1:
            broadcast(list(self.learner.networks().buffers()))

    def begin_loop(
        self, selections: Sequence[Selection], usable: Tensor, look: Callable[[Tensor], Candidates] | None
    ) -> None:
        """A loop begins.

        Args:
            selections: Of this loop and all before it.
            usable: Samples of the pool that can be loaded. LongTensor [m].
            look: Scores these positions of the pool; None where no selection follows the loop.
        """
        if self.learner is None:
            return
        if look is None:
            self.learner.end()
            return
        selected = torch.isin(usable, torch.cat([selection.indices for selection in selections]))
        # Transforms may draw from the global generators: not at the training's expense.
        with seeded(seed_of(self._seed, len(selections))):
            self.learner.begin_loop(usable[selected], usable[~selected], look)

    # --- Checkpoints ---

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.learner is None else self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.learner is not None:
            self.learner.load_state_dict(state)


def _suits(group: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """How well a learner's parameters go into this group: where the run's weight decay acts. What is new learns as fast
    as anything; groups of matrices alone may not be meant for vectors (Muon, GaLore)."""
    has_vectors = any(parameter.dim() < 2 for parameter in group["params"])
    return bool(group.get("weight_decay")), has_vectors, float(group["lr"] or 0)
