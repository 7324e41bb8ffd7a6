"""One pass over the pool: the embedding, the loss, the logits and the label of each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, send_to_device
from torch import Tensor, nn
from tqdm.auto import tqdm

from vecaf_hf.candidates import Candidates
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.indexed import POOL_INDEX
from vecaf_hf.scoring.head import captured_embeddings, check_head
from vecaf_hf.scoring.losses import SampleLoss, logits_of

# Rows exchanged between processes at once: bounds the memory of a gather on the accelerator.
GATHER_ROWS = 2**16


class PoolScorer:
    """Scores samples with the current model, sharded over the processes; every process gets all results.

    Args:
        accelerator: Moves batches, casts under its mixed precision and gathers.
        sample_loss: (outputs, labels) -> [N].
        load: Makes a loader over these positions of the pool (a list) with batches that hold POOL_INDEX.
        label_name: The batch's key for the labels.
        meter: Counts the forward passes.
        verify_loss: Check once that `sample_loss` averages to the loss that the model itself returns.
        disable_tqdm: Whether to hide the progress bar.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        sample_loss: SampleLoss,
        load: Callable[[list[int]], Iterable[dict[str, Any]]],
        label_name: str,
        meter: CostMeter,
        verify_loss: bool,
        disable_tqdm: bool,
    ) -> None:
        self.accelerator, self.sample_loss, self.load = accelerator, sample_loss, load
        self.label_name, self.meter = label_name, meter
        self.verify_loss, self.disable_tqdm = verify_loss, disable_tqdm

    def score(self, model: nn.Module, head: nn.Module, indices: Tensor) -> Candidates:
        """Candidates for these positions of the pool. LongTensor [M].

        Raises:
            ValueError: A batch has no labels, the head is not what makes the logits, the model's own loss is
                another than `sample_loss`, or a result is not finite (with the sample's index).
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        # Dealt out like cards. Every process scores the same number: the first samples fill the last round up.
        rounds = -(-len(indices) // world)
        mine = indices[torch.arange(rank, rounds * world, world) % len(indices)]
        if world > 1:
            broadcast(list(model.buffers()))
        training = model.training
        model.eval()
        try:
            with self.meter.timed("score"):
                fields = self._forward(model, head, mine)
        finally:
            model.train(training)
        gathered = {name: self._gather(values)[: len(indices)] for name, values in fields.items()}
        if not torch.equal(gathered["indices"], indices):
            raise RuntimeError("scores came back for other samples than were asked for; this is a bug in vecaf_hf")
        return Candidates(**gathered)

    def _forward(self, model: nn.Module, head: nn.Module, indices: Tensor) -> dict[str, Tensor]:
        fields: dict[str, Tensor] = {}
        done = 0
        progress = tqdm(total=len(indices), desc="Scoring", unit="image", disable=self.disable_tqdm, leave=False)
        with captured_embeddings(head) as seen, progress:
            for batch in self.load(indices.tolist()):
                results = self._forward_batch(model, head, batch, seen, first=done == 0)
                if not fields:
                    fields = {
                        name: torch.empty((len(indices), *values.shape[1:]), dtype=values.dtype)
                        for name, values in results.items()
                    }
                size = len(results["indices"])
                for name, values in results.items():
                    fields[name][done : done + size] = values
                done += size
                progress.update(size)
        return fields

    def _forward_batch(
        self, model: nn.Module, head: nn.Module, batch: dict[str, Any], seen: list[Tensor], first: bool
    ) -> dict[str, Tensor]:
        inputs = dict(batch)
        indices = inputs.pop(POOL_INDEX)
        if inputs.get(self.label_name) is None:
            raise ValueError(
                f"the collator's batches have no {self.label_name!r} (they have {', '.join(inputs)}): selection needs "
                "labels; if a column is missing, set remove_unused_columns=False"
            )
        inputs = send_to_device(inputs, self.accelerator.device)
        labels = inputs.pop(self.label_name)
        verify = first and self.verify_loss
        seen.clear()
        self.meter.add_forwards("score", len(indices) * self.accelerator.num_processes)
        with torch.inference_mode(), self.accelerator.autocast():
            outputs = model(**inputs, **({self.label_name: labels} if verify else {}))
        with torch.inference_mode():
            if verify:
                model_loss, outputs = _split_loss(model, outputs)
            embeddings, logits = seen[0], logits_of(outputs)
            losses = self.sample_loss(outputs, labels)
            if first:
                with self.accelerator.autocast():
                    check_head(head, embeddings, logits)
            if verify:
                _check_loss(model_loss, losses)
        fields = {"embeddings": embeddings.float(), "losses": losses.float(), "logits": logits.float()}
        return {"indices": indices, "labels": labels.cpu()} | {name: v.cpu() for name, v in fields.items()}

    def _gather(self, values: Tensor) -> Tensor:
        """All processes' rows, in the order in which `mine` was dealt out."""
        if self.accelerator.num_processes == 1:
            return values
        parts = []
        for block in values.split(GATHER_ROWS):
            gathered = self.accelerator.gather(block.to(self.accelerator.device)).cpu()
            dealt = gathered.unflatten(0, (self.accelerator.num_processes, len(block)))
            parts.append(dealt.transpose(0, 1).flatten(0, 1))
        return torch.cat(parts)


def _split_loss(model: nn.Module, outputs: Any) -> tuple[Tensor, Any]:
    """The model's own loss, found as Trainer finds it, and its output as it is without labels."""
    if isinstance(outputs, tuple):
        return outputs[0], outputs[1:]
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
    if loss is None:
        raise ValueError(
            f"{type(model).__name__} returns no loss when it is given labels: pass its objective as "
            "sample_loss_func(outputs, labels) -> Tensor[N]"
        )
    return loss, outputs


def _check_loss(model_loss: Tensor, losses: Tensor) -> None:
    if not torch.allclose(model_loss.float(), losses.float().mean(), rtol=1e-2, atol=1e-3):
        raise ValueError(
            f"the model's own loss ({float(model_loss):g}) is not the mean of the per-sample losses "
            f"({float(losses.mean()):g}): it trains another objective than its problem_type says. Pass that objective "
            "as sample_loss_func(outputs, labels) -> Tensor[N]"
        )
