"""What boundaries have scored, for whoever asks where the model fails."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from vecaf_hf.arguments import VeCAFArguments
from vecaf_hf.conditions.condition import Seen
from vecaf_hf.conditions.finding import MOST_SAMPLES
from vecaf_hf.scoring.linear_heads import linear_of
from vecaf_hf.scoring.scorer import OF_THE_MODEL
from vecaf_hf.selection.candidates import Candidates, evenly_spaced

# What is kept.
FIELDS = ("indices", "embeddings", "losses", "labels", "logits", "appearance")


class Remembered:
    """Of the last boundary its scores, of each one who was right.

    Not of boundaries that go by a probe or by older scores: what the model would say is not known there.

    Attributes:
        scored: With logits; at most MOST_SAMPLES. None before, and after a resume.
        seen: By loop.
    """

    def __init__(self, args: VeCAFArguments) -> None:
        self.is_of_the_model = args.scoring_way[0] in OF_THE_MODEL
        self.scored: Candidates | None = None
        self.seen: dict[int, Seen] = {}

    @torch.no_grad()
    def take(self, loop: int, candidates: Candidates, head: nn.Module | None) -> None:
        """Keep what can be told of these candidates, as far as a linear head, or their own logits, tell it."""
        scored = candidates.has_embeddings and candidates.losses is not None
        if not (self.is_of_the_model and scored and candidates.classes is not None):
            return
        if len(candidates) > MOST_SAMPLES:
            candidates = candidates.take(evenly_spaced(len(candidates), MOST_SAMPLES))
        candidates = candidates.whole()
        some = Candidates(**{name: getattr(candidates, name) for name in FIELDS})
        if some.logits is None:
            layer = None if head is None else linear_of(head)
            if layer is None:
                return
            logits = layer(some.given("embeddings").to(layer.weight)).float().cpu()
            some = replace(some, logits=logits)
        seen, before = Seen.of(some), next(reversed(self.seen.values()), None)
        if before is not None and torch.equal(before.indices, seen.indices):
            # Held once, however many loops score the same samples.
            seen = replace(seen, indices=before.indices)
        self.scored, self.seen[loop] = some, seen
