"""Parameters that the model's optimizer trains and that are not in the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, ClassVar

from accelerate import Accelerator
from accelerate.utils import reduce
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer


class LearnsBesideModel(TrainerCallback):
    """What Accelerate, DistributedDataParallel and Trainer do to the model's gradients is done here to others.

    Attributes:
        decays: Whether the run's weight decay acts on the parameters.
    """

    decays: ClassVar[bool] = True
    # In the optimizer, since the run began.
    _joined: Sequence[nn.Parameter] = ()

    def learned_parameters(self) -> list[nn.Parameter]:
        """What the model's optimizer trains besides the model."""
        raise NotImplementedError

    def join(self, optimizer: Any) -> None:
        """Have the model's optimizer train the parameters in one of its groups, and no longer those of an earlier run.

        Not in a new group: a schedule that was made before has no entry for it (torch 2.14 raises a ValueError).

        Raises:
            ValueError: The optimizer trains nothing but what it was made with.
        """
        learned, earlier = self.learned_parameters(), {id(parameter) for parameter in self._joined}
        if not learned and not earlier:
            # The stand-in for an optimizer that DeepSpeed is to make has no groups.
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
                "alone, and a learned alignment or the strategy's learner is to be trained too: choose another optim"
            )
        group = max(optimizer.param_groups, key=self._suits)
        group["params"] += learned
        if "param_names" in group:
            group["param_names"] += [f"{type(self).__name__}.{number}" for number in range(len(learned))]

    def _suits(self, group: Mapping[str, Any]) -> tuple[bool, bool, float]:
        """How well the parameters go into this group. What is new learns as fast as anything; groups of matrices alone
        may not be meant for vectors (Muon, GaLore)."""
        has_vectors = any(parameter.dim() < 2 for parameter in group["params"])
        return bool(group.get("weight_decay")) is self.decays, has_vectors, float(group["lr"] or 0)

    def after_backward(self, accelerator: Accelerator) -> None:
        """Before a gradient scaler looks at the gradients: it must find the same in all processes, each calls it."""
        if accelerator.sync_gradients and accelerator.num_processes > 1:
            for parameter in self.learned_parameters():
                if parameter.grad is not None:
                    parameter.grad = reduce(parameter.grad, reduction="mean")

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if args.max_grad_norm and self.learned_parameters():
            nn.utils.clip_grad_norm_(self.learned_parameters(), args.max_grad_norm)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        for parameter in self.learned_parameters():
            parameter.grad = None
