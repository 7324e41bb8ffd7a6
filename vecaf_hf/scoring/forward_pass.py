"""One pass over the pool: the embedding, the loss, the logits and the label of each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, convert_to_fp32, gather_object, send_to_device
from torch import Tensor, nn
from tqdm.auto import tqdm

from vecaf_hf.agreement import Together
from vecaf_hf.cost import FULL_SIZE, CostMeter
from vecaf_hf.data.indexed import POOL_INDEX, UNLOADABLE, Unloadable
from vecaf_hf.data.labels import is_ignored, one_per_sample
from vecaf_hf.data.pool import Pool
from vecaf_hf.scoring.entering import Head
from vecaf_hf.scoring.head import without_wrappers
from vecaf_hf.scoring.losses import has_half_precision, kind_of_output, logits_of
from vecaf_hf.scoring.memory import FittingBatches
from vecaf_hf.scoring.objective import Objective
from vecaf_hf.scoring.precision import scoring_precision
from vecaf_hf.scoring.resolution import at_image_size, first_forward_at
from vecaf_hf.scoring.sharded import whole_weights
from vecaf_hf.selection.candidates import Candidates, check_finite
from vecaf_hf.selection.processes import Spread

# Rows exchanged between processes at once: bounds the memory of a gather on the accelerator.
GATHER_ROWS = 2**16
# So many samples are a look, not a scoring: no progress bar.
FEW = 16


@dataclass(frozen=True)
class Wanted:
    """What a forward pass is to find out, and of which images.

    Args:
        losses: Whether candidates get their losses.
        logits: Whether they get their logits [M, C], the largest of all fields with many classes.
        image_size: Height and width that images are resized to before the forward pass; None to leave them.
        image_size_is_new: Whether what fails at `image_size` is put down to it: the batches go well as they come.
        check_loss: Whether the first batch's mean loss is checked against the objective's reference.
        shares: Whether each process keeps the embeddings of its own block alone, as `shared_embeddings`.
        half_embeddings: Whether embeddings are float16.
        bf16: Whether the model works in bfloat16, and not in the training's precision; None for what the run says.
    """

    losses: bool = True
    logits: bool = False
    image_size: int | None = None
    image_size_is_new: bool = False
    check_loss: bool = False
    shares: bool = False
    half_embeddings: bool = False
    bf16: bool | None = None


class ForwardPass:
    """Scores samples with the current model, a block of them in each process; every process gets all results, but for
    embeddings that stay where they are.

    Args:
        accelerator: Moves batches, casts under its mixed precision and gathers.
        objective: Gives each sample's loss.
        pool: What is scored. It is told, in every process, which positions were asked for and which of this process's
            share could not be loaded; what it lets pass has no candidates.
        meter: Counts the forward passes.
        wanted: What to find out.
        fitting: Cuts batches to what fits in memory.
        observed: (inputs, count) -> a block for the forward pass, which gives a dictionary of further fields of the
            candidates, complete when the block has ended.

    Attributes:
        output_kind: The kind of the model's output, the same in all processes; None until a sample has been scored.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        pool: Pool,
        meter: CostMeter,
        wanted: Wanted,
        fitting: FittingBatches | None = None,
        observed: Callable[[Mapping[str, Any], int], AbstractContextManager[dict[str, Tensor]]] | None = None,
    ) -> None:
        self.accelerator, self.objective, self.pool, self.meter = accelerator, objective, pool, meter
        self.wanted, self.keeps_shares = wanted, wanted.shares and accelerator.num_processes > 1
        self.output_kind: str | None = None
        self.fitting = FittingBatches() if fitting is None else fitting
        self.observed = observed or (lambda inputs, count: nullcontext({}))

    def score(self, model: nn.Module, head: Head, indices: Tensor) -> Candidates:
        """Candidates for these positions of the pool, rising where shares are kept, LongTensor [M]; without any field
        where none could be loaded, and without embeddings where nobody reads what enters the head.

        Raises:
            ValueError: No head makes the logits of one embedding per sample, training's loss is not the mean
                of the objective's losses, or a result is not finite (with the sample's index).
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        # Every process scores the same number: the first samples fill the last block up.
        each = -(-len(indices) // world)
        mine = indices[torch.arange(rank * each, (rank + 1) * each) % len(indices)]
        if world > 1:
            broadcast(list(model.buffers()))
        training = model.training
        model.eval()
        try:
            with self.meter.timed("score"), whole_weights(model, self.accelerator):
                fields, unloadable = self._forward(model, head, mine)
        finally:
            model.train(training)
        self.pool.note_scored(indices, unloadable)
        # A process that could load none of its share learns from another one what it has no rows of.
        shapes = {name: (values.shape[1:], values.dtype) for name, values in fields.items()}
        forms = gather_object([(shapes, self.output_kind, head.state())])
        form, self.output_kind, found = next((one for one in forms if one[0]), ({}, None, None))
        if not form:
            return Candidates(indices[:0])
        if found is not None and not head.is_settled:
            head.adopt(found)
        fields = fields or {name: torch.zeros((len(mine), *shape), dtype=of) for name, (shape, of) in form.items()}
        own = fields.pop("embeddings", None) if self.keeps_shares else None
        if own is not None:
            fields["finite"] = own.isfinite().all(dim=1).to(torch.uint8)
        gathered = {name: self._gather(values)[: len(indices)] for name, values in fields.items()}
        loaded = gathered.pop("loaded").bool()
        gathered = gathered if loaded.all() else {name: values[loaded] for name, values in gathered.items()}
        if not torch.equal(gathered["indices"], indices[loaded]):
            raise RuntimeError("scores came back for other samples than were asked for; this is a bug in vecaf_hf")
        if "largest" in gathered:
            _check_largest(gathered.pop("largest"), gathered["indices"])
        if own is None:
            return Candidates(**gathered)  # type: ignore[arg-type]  # no head is among them
        check_finite("embeddings", gathered.pop("finite").bool(), gathered["indices"])
        filled = loaded.new_zeros(each * world)
        filled[: len(loaded)] = loaded
        bounds = (0, *filled.unflatten(0, (world, each)).sum(dim=1).cumsum(0).tolist())
        mine_loaded = filled[rank * each :][:each]
        own = own[: int(mine_loaded.sum())] if loaded.all() else own[mine_loaded]
        shared = Spread(own, bounds, Together(self.accelerator))
        return Candidates(**gathered, shared_embeddings=shared)  # type: ignore[arg-type]

    def _forward(
        self, model: nn.Module, head: Head, indices: Tensor
    ) -> tuple[dict[str, Tensor], dict[int, Unloadable]]:
        """Results with one row per position, those `loaded` filled; and the samples that could not be loaded."""
        fields: dict[str, Tensor] = {}
        unloadable: dict[int, Unloadable] = {}
        done = 0
        hidden = self.pool.args.disable_tqdm or not self.accelerator.is_local_main_process or len(indices) <= FEW
        progress = tqdm(total=len(indices), desc="Scoring", unit="sample", disable=hidden, leave=False)
        with progress:
            for batch in self.pool.batches(indices.tolist()):
                failed = batch.pop(UNLOADABLE, {})
                unloadable |= failed
                rows = slice(done, done + len(batch[POOL_INDEX]) + len(failed))
                loaded = torch.isin(indices[rows], batch[POOL_INDEX])
                if loaded.any():
                    forward = partial(self._forward_batch, model, head, not fields)
                    parts = self.fitting.run(forward, batch)
                    results = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
                    if not fields:
                        fields = {name: _rows_like(values, len(indices)) for name, values in results.items()}
                    for name, values in results.items():
                        fields[name][rows][loaded] = values
                done = rows.stop
                progress.update(len(loaded))
        return fields, unloadable

    def _forward_batch(self, model: nn.Module, head: Head, first: bool, batch: dict[str, Any]) -> dict[str, Tensor]:
        inputs = dict(batch)
        indices = inputs.pop(POOL_INDEX)
        inputs = send_to_device(inputs, self.accelerator.device)
        labels = inputs.get(self.pool.label_name)
        reference = self.objective.reference if first and self.wanted.check_loss else None
        reads = bool(head.reader) or self.wanted.logits or self.wanted.losses
        own_loss = reference is not None and self.objective.reference_from_model
        # As Trainer gives them, where nothing is read of what comes out.
        gives_labels = own_loss or not reads or _demands(model, self.pool.label_name)
        if not gives_labels:
            inputs.pop(self.pool.label_name, None)
        # Not in inference mode: a model may keep what it has made once, and then train on it.
        with (
            torch.no_grad(),
            scoring_precision(self.accelerator, self.wanted.bf16),
            head.watched() as calls,
            self.observed(inputs, len(indices)) as further,
        ):
            outputs = self._outputs(model, inputs, len(indices))
        # In float32 from here, as accelerate's are in mixed precision: losses would be rounded again.
        outputs = convert_to_fp32(outputs) if self.wanted.bf16 else outputs
        if first:
            self.output_kind = kind_of_output(outputs)
        fields, reads_logits = dict(further), bool(head.reader) or self.wanted.logits
        logits = logits_of(outputs, gives_labels) if reads_logits else None
        with torch.inference_mode():
            if head.reader and logits is not None:
                mask = inputs.get("attention_mask")
                with scoring_precision(self.accelerator, self.wanted.bf16):
                    fields["embeddings"] = head.embeddings(calls, logits, first, mask)
            if self.wanted.logits and logits is not None:
                _check_rows(logits, len(indices))
                fields["logits"] = logits
            if self.wanted.losses:
                # A tuple begins with the model's loss when it was given labels.
                rest = outputs[1:] if gives_labels and isinstance(outputs, tuple) else outputs
                fields["losses"] = losses = self._losses(rest, labels, len(indices))
                if reference is not None:
                    expected, computed = reference(outputs, labels), losses[~is_ignored(labels)]
                    is_half = bool(self.wanted.bf16) or any(map(has_half_precision, (expected, *_values(outputs))))
                    _check_loss(expected, computed, is_half)
        whole = {"indices": indices, "loaded": torch.ones(len(indices), dtype=torch.uint8)}
        labels = one_per_sample(labels) if isinstance(labels, Tensor) else None
        if labels is not None and _are_rows(labels, logits):
            whole["labels"] = labels.cpu()
        found = {name: values.float() for name, values in fields.items()}
        if self.wanted.half_embeddings and "embeddings" in found:
            exact, found["embeddings"] = found["embeddings"], found["embeddings"].half()
            found["largest"] = exact.abs().amax(dim=1)
        return whole | {name: values.cpu() for name, values in found.items()}

    def _losses(self, outputs: Any, labels: Any, count: int) -> Tensor:
        losses = self.objective.sample_losses(outputs, labels)
        _check_shape(losses, count)
        return losses

    def _outputs(self, model: nn.Module, inputs: dict[str, Any], count: int) -> Any:
        """The model's, counted, for images of the size that is due."""
        size, processes = self.wanted.image_size, self.accelerator.num_processes
        if size is None:
            with self.meter.forward("score", count, processes, FULL_SIZE):
                return model(**inputs)
        inputs = at_image_size(model, inputs, size)
        with self.meter.forward("score", count, processes, str(size)):
            return first_forward_at(model, inputs, size) if self.wanted.image_size_is_new else model(**inputs)

    def _gather(self, values: Tensor) -> Tensor:
        """All processes' rows, block after block."""
        if self.accelerator.num_processes == 1:
            return values
        world, device = self.accelerator.num_processes, self.accelerator.device
        rows = values.new_empty((world, *values.shape))
        for start in range(0, len(values), GATHER_ROWS):
            block = values[start : start + GATHER_ROWS]
            gathered = self.accelerator.gather(block.to(device)).cpu().unflatten(0, (world, len(block)))
            rows[:, start : start + len(block)] = gathered
        return rows.flatten(0, 1)


def _check_largest(largest: Tensor, indices: Tensor) -> None:
    """Raise a ValueError that names the first sample whose embedding half precision does not hold. [M], [M]."""
    most = torch.finfo(torch.half).max
    beyond = ((largest > most) & largest.isfinite()).nonzero()
    if len(beyond):
        row = int(beyond[0, 0])
        raise ValueError(
            f"half_embeddings: the embedding of sample {int(indices[row])} has a value of {float(largest[row]):g}, and "
            f"half precision ends at {most:g}: leave half_embeddings off"
        )


def _rows_like(values: Tensor, count: int) -> Tensor:
    return values.new_zeros((count, *values.shape[1:]))


def _demands(model: nn.Module, name: str) -> bool:
    """Whether the model's forward cannot do without labels."""
    parameter = signature(without_wrappers(model).forward).parameters.get(name)
    return parameter is not None and parameter.default is Parameter.empty


def _are_rows(labels: Tensor, logits: Tensor | None) -> bool:
    """Whether labels are a number for each sample, or for each of its logits: not for each token or pixel."""
    if labels.dim() == 2 and logits is not None:
        return labels.shape == logits.shape
    return labels.dim() == 1 or (labels.dim() == 2 and labels.is_floating_point())


def _check_rows(logits: Tensor, count: int) -> None:
    if logits.dim() != 2 or len(logits) != count:
        raise ValueError(
            f"the strategy reads one row of logits per sample, [{count}, C], and the model's are {list(logits.shape)}: "
            "choose a strategy that reads none, such as 'balanced' or 'random'"
        )


def _values(outputs: Any) -> list[Tensor]:
    """The real numbers that a model returns."""
    values = [outputs] if isinstance(outputs, Tensor) else outputs.values() if isinstance(outputs, Mapping) else outputs
    return [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]


def _check_shape(losses: object, count: int) -> None:
    if not isinstance(losses, Tensor) or losses.shape != (count,):
        got = list(losses.shape) if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise ValueError(
            f"the objective (sample_loss_func) must return one loss per sample, a Tensor [{count}], and returned "
            f'{got}: with losses of torch, set reduction="none"'
        )


def _check_loss(reference: Tensor, losses: Tensor, is_half: bool) -> None:
    # Of the same logits. Losses of an untrained model are much alike, and so are their weighted means.
    rtol, atol = (1e-2, 1e-3) if is_half else (1e-4, 1e-5)
    reference, mean = reference.float(), losses.float().mean()
    if not torch.allclose(reference, mean, rtol=rtol, atol=atol, equal_nan=True):
        raise ValueError(
            f"training's loss of a batch ({float(reference):g}) is not the mean of its per-sample losses "
            f"({float(mean):g}), and the selection or its weights go by these: the model computes another loss than "
            "its problem_type says, or the objective weighs samples against each other. Pass the objective as "
            "sample_loss_func(outputs, labels) -> Tensor[N], with sample_weight_func(labels) -> Tensor[N] where it is "
            "a weighted mean; or choose a strategy that reads no losses, such as 'balanced'"
        )
