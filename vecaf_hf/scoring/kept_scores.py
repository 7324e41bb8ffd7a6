"""The pool's scores before the first training step, from a folder where an earlier run has left the embeddings."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import datasets
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor, nn

from vecaf_hf.agreement import decided_by_main, tensors_of_main
from vecaf_hf.cost import CostMeter
from vecaf_hf.data.indexed import UNLOADABLE
from vecaf_hf.data.pool import Pool
from vecaf_hf.scoring.content_hash import batches_hash, dataset_hash, model_hash
from vecaf_hf.scoring.forward_pass import Wanted
from vecaf_hf.scoring.linear_heads import rescored
from vecaf_hf.scoring.objective import Objective
from vecaf_hf.scoring.score_cache import ScoreCache
from vecaf_hf.seeding import seed_of, seeded
from vecaf_hf.selection.candidates import Candidates, evenly_spaced

logger = logging.getLogger(__name__)

VERSION = 1
# Samples that are loaded to tell a transform from others, and a random one.
LOADED = 64
# Times that they are loaded: what is rarely random may be the same in all of them.
TURNS = 4
# Of an embedding's length, how far a kept one may be from that which the model gives now, in any precision.
TOLERANCE = 0.02


class Source(Protocol):
    """What scores are kept of: see `Scorer`."""

    pool: Pool
    model: nn.Module
    objective: Objective
    meter: CostMeter
    accelerator: Accelerator
    output_kind: str
    keeps_logits: bool

    @property
    def head(self) -> nn.Module: ...

    @property
    def whole_head(self) -> nn.Module: ...

    def score_at(self, indices: Tensor, wanted: Wanted) -> Candidates: ...

    def precision(self) -> AbstractContextManager[None]: ...


class KeptScores:
    """Scores that an untrained model gives a pool: embeddings are kept, losses and logits are its head's on them.

    Whether the embeddings were kept or have just been made, losses and logits are computed by the same code from the
    same numbers: a run begins the same, bit for bit, with the folder warm, cold or gone. A part of the pool, which a
    pass batches otherwise than the whole, is therefore scored as if there were no folder.

    An entry is named by all that embeddings are made of: the model's weights but for its head's, the pool's content,
    the scoring transform by what it makes of LOADED samples, and how these are batched and computed. Only a pass over a
    whole pool of which every sample could be loaded makes one.

    Args:
        folder: Of the entries.
        source: Scores the pool by a forward pass, with an untrained model.
        probe: A few samples of the pool, as the model scores them now.

    Attributes:
        hit: Whether the first scores of the whole pool came from the folder; None before, and where none can be kept.

    Raises:
        ValueError: The head on the probe's embeddings does not give the probe's losses.
    """

    def __init__(self, folder: str, source: Source, probe: Candidates) -> None:
        self.cache, self.source, self.probe = ScoreCache(folder), source, probe
        self.pool, self.meter, self.accelerator = source.pool, source.meter, source.accelerator
        self.image_size = source.pool.args.scoring_image_size
        self.hit: bool | None = None
        self._key: str | None = None
        self._is_named = False
        self._check_losses()

    def score(self, indices: Tensor) -> Candidates:
        """Candidates of these positions of the pool, LongTensor [M]; without those that cannot be loaded."""
        if not torch.equal(indices, torch.arange(len(self.pool))):
            return self.source.score_at(indices, Wanted(image_size=self.image_size))
        # What a pass draws from the global generators, a warm folder would not.
        with seeded(seed_of(self.pool.seed)):
            with self.meter.timed("score"):
                key = self._named()
                kept = None if key is None else tensors_of_main(self.accelerator, lambda: self._found(key))
            if key is None:
                return self.source.score_at(indices, Wanted(image_size=self.image_size))
            if self.hit is None:
                self.hit = kept is not None
            if kept is None:
                scored = self.source.score_at(indices, Wanted(image_size=self.image_size))
                if len(scored) == len(self.pool) and self.accelerator.is_main_process:
                    whole = scored.in_pool_order()
                    assert torch.equal(whole.indices, indices)
                    self.cache.write(key, whole.given("embeddings"), whole.given("labels"))
            else:
                # All of them could be loaded when the entry was made.
                self.pool.note_scored(indices, {})
                scored = Candidates(indices, self._as_scored(kept["embeddings"]), labels=kept["labels"])
            return self._completed(scored) if len(scored) else scored

    def _as_scored(self, embeddings: Tensor) -> Tensor:
        """In the precision that the run keeps embeddings in. [N, d]."""
        return embeddings.half() if self.pool.args.half_embeddings else embeddings

    def _completed(self, scored: Candidates) -> Candidates:
        """With losses, and logits, of the head on the embeddings."""
        with self.meter.timed("select"), self.meter.measured("score"):
            source, losses = self.source, self.source.objective.sample_losses
            return rescored(
                source.whole_head, scored, losses, source.output_kind, source.keeps_logits, source.precision
            )

    @property
    def has_entry(self) -> bool:
        """Whether a run that begins like this one would find the whole pool's scores."""
        with seeded(seed_of(self.pool.seed)):
            key = self._named()
        return key is not None and decided_by_main(self.accelerator, self.cache.path(key).is_file)

    # --- What an entry is known by ---

    def _named(self) -> str | None:
        """The entry's name, the same in all processes; None, with a warning, where no entry can be made."""
        if not self._is_named:
            # By all: processes may have parts of the weights.
            weights = model_hash(self.source.model, self.source.head)
            self._key = decided_by_main(self.accelerator, partial(self._name, weights))
            self._is_named = True
        return self._key

    def _name(self, weights: str) -> str | None:
        dataset = self.pool.scoring_dataset
        if not isinstance(dataset, datasets.Dataset):
            logger.warning(
                "score_cache keeps the scores of a datasets.Dataset, whose rows can be told without loading them, and "
                "the pool is a %s: it is scored, and not kept",
                type(dataset).__name__,
            )
            return None
        if self.pool.ledger.skipped:
            logger.warning("score_cache keeps no scores of a pool of which samples cannot be loaded: it is scored")
            return None
        pixels = batches_hash(self._batches(0))
        if any(batches_hash(self._batches(turn)) != pixels for turn in range(1, TURNS)):
            logger.warning(
                "score_cache keeps no scores, since the samples that are scored are random (two loads of the same ones "
                "differ): the pool is scored. Give a scoring_dataset without random transforms"
            )
            return None
        parts = [
            *(VERSION, torch.__version__, transformers.__version__),
            *(weights, dataset_hash(dataset), pixels),
            *(["half"] if self.pool.args.half_embeddings else []),
            *(["bf16"] if self.pool.args.scoring_bf16 else []),
            *(self.image_size, self.accelerator.mixed_precision, torch.get_float32_matmul_precision()),
            # What is batched otherwise differs in its last bits.
            *(self.accelerator.device.type, self.pool.scoring_batch_size, self.accelerator.num_processes),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _batches(self, turn: int) -> Iterator[dict[str, Any]]:
        """Evenly spaced samples, as they are scored; another turn draws anew what is random in them."""
        for batch in self.pool.scoring_loader(evenly_spaced(len(self.pool), LOADED).tolist(), turn):
            # An error's text may hold an address.
            yield batch | {UNLOADABLE: sorted(batch.get(UNLOADABLE, {}))}

    # --- Whether it is what the model gives ---

    def _found(self, key: str) -> dict[str, Tensor] | None:
        kept = self.cache.read(key)
        if kept is None:
            return None
        embeddings = kept["embeddings"]
        if len(embeddings) == len(self.pool) == len(kept["labels"]) and self._agree(embeddings):
            return kept
        path = str(self.cache.path(key))
        logger.warning("the kept scores %r are not what the model gives: they are left alone, the pool is scored", path)
        return None

    def _agree(self, embeddings: Tensor) -> bool:
        expected = self.probe.given("embeddings").float()
        found = embeddings[self.probe.indices]
        if found.shape != expected.shape:
            return False
        return bool(((found - expected).norm(dim=1) <= TOLERANCE * expected.norm(dim=1)).all())

    def _check_losses(self) -> None:
        found, expected = self._completed(self.probe).given("losses"), self.probe.given("losses")
        if not torch.allclose(found, expected, rtol=1e-2, atol=1e-3):
            raise ValueError(
                f"score_cache: the head makes losses such as {float(found[0]):g} of embeddings, and the model "
                f"{float(expected[0]):g}: the objective reads more of the model's output than its logits. Leave "
                "score_cache unset"
            )
