"""Where a trained model fails: `VeCAFTrainer.conditions`, from the last boundary's scores or a dataset of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from vecaf_hf.conditions.condition import Condition, Seen, find_conditions
from vecaf_hf.conditions.finding import MOST_SAMPLES, Group
from vecaf_hf.conditions.naming import name_by_images
from vecaf_hf.conditions.stored import MAP_FILE, write_conditions
from vecaf_hf.data.pool import Pool
from vecaf_hf.data.stored_images import LoadImage, raw_images
from vecaf_hf.inspection.embedding_map import in_the_plane
from vecaf_hf.inspection.look import untouched
from vecaf_hf.inspection.planned import Planned
from vecaf_hf.loop.plan import Plan
from vecaf_hf.reporting.condition_map import MapData, write_map
from vecaf_hf.reporting.images import images_of
from vecaf_hf.scoring.forward_pass import Wanted
from vecaf_hf.selection.candidates import Candidates, evenly_spaced
from vecaf_hf.text.captions import Caption, texts_of
from vecaf_hf.text.encoder import TextEncoder

NOTHING_SCORED = (
    "no boundary has scored samples of one class each by the model as it was, with embeddings, since this run began or "
    "was resumed (a strategy such as ods with rescore='full' or 'sampled' does): give a dataset, such as "
    "trainer.conditions(trainer.eval_dataset)"
)
IMAGE = "image"
# A text that phrases are added to.
PLAIN = "a photo"
# Images of a group, and as many of its classes, that an encoder looks at.
MOST_EMBEDDED = 200


@dataclass(frozen=True)
class Naming:
    """What conditions are named by, as `VeCAFTrainer.conditions` takes it."""

    captions: str | Sequence[Caption] | None
    text_encoder: str | TextEncoder | None
    phrases: Sequence[str]


def conditions(trainer: Planned, dataset: Any, naming: Naming, folder: Path | None) -> list[Condition]:
    """`VeCAFTrainer.conditions`."""
    plan = trainer.plan()
    seed, names = plan.pool.seed, plan.classes.names
    scored, earlier = _last_scored(trainer) if dataset is None else (_scored(plan, trainer.pool_of(dataset)), {})
    dataset = trainer.train_dataset if dataset is None else dataset
    captions = _captions(naming.captions, dataset, plan)
    found = find_conditions(scored, captions, names, earlier, seed)
    if naming.text_encoder is not None:
        features = getattr(dataset, "features", {})
        column = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), IMAGE)
        images = raw_images(dataset, column, "naming conditions", "name them by captions")
        look = _Look(scored, images, naming)
        found = [(one if one.name else look.named(one, group), group) for one, group in found]
    conditions = [one for one, _ in found]
    if folder is not None and plan.scorer.accelerator.is_main_process:
        is_pool = dataset is trainer.train_dataset and trainer.loop is not None
        selections = [one.indices for one in trainer.loop.history.selections] if is_pool and trainer.loop else []
        data = _map(scored, conditions, selections, names, seed)
        if captions is not None:
            data = replace(data, captions=[captions[index] for index in scored.indices.tolist()])
        write_conditions(conditions, images_of(dataset), folder)
        write_map(data, images_of(dataset), folder / MAP_FILE)
    return conditions


def _last_scored(trainer: Planned) -> tuple[Candidates, dict[int, Seen]]:
    loop = trainer.loop
    if loop is None or loop.selector.remembered.scored is None:
        raise ValueError(NOTHING_SCORED)
    return loop.selector.remembered.scored, loop.selector.remembered.seen


def _scored(plan: Plan, pool: Pool) -> Candidates:
    """A dataset's samples, or an even part of them, as the model is evaluated."""
    looking = plan.apart()
    scorer = looking.scorer
    scorer.look_at_embeddings("conditions()")
    scorer.keeps_logits = scorer.keeps_appearance = True
    with scorer.evaluated_weights(), untouched(looking):
        return scorer.score_at(evenly_spaced(len(pool), MOST_SAMPLES), Wanted(bf16=False), pool)


def _captions(captions: str | Sequence[Caption] | None, dataset: Any, plan: Plan) -> list[str | None] | None:
    """One text of each sample: what is given, else CEA's for the pool, else the column `caption`."""
    if captions is None and dataset is plan.pool.dataset and plan.cea is not None:
        captions = plan.cea.texts.given
    labels = plan.pool.labels if dataset is plan.pool.dataset else None
    return texts_of(captions, dataset, labels, plan.classes.names)


class _Look:
    """Names by a dual encoder's look at images."""

    def __init__(self, scored: Candidates, images: LoadImage, naming: Naming) -> None:
        self.scored, self.images, self.phrases = scored, images, naming.phrases
        given: Any = naming.text_encoder
        self.encoder = given if isinstance(given, TextEncoder) else TextEncoder(given)
        self.texts = self.encoder.encode([PLAIN, *(f"{PLAIN} {phrase}" for phrase in self.phrases)])

    def named(self, condition: Condition, group: Group) -> Condition:
        """The condition with a name of these phrases, if one stands out."""
        own, others = self._embedded(group.members[:MOST_EMBEDDED]), self._embedded(self._like(group))
        name = name_by_images(own, others, self.texts[0], self.texts[1:], self.phrases)
        if name is None:
            return condition
        return replace(condition, name=name.text, name_score=name.score, named_by=name.by)

    def _embedded(self, indices: Tensor) -> Tensor:
        return self.encoder.encode_images(self.images(index) for index in indices.tolist())

    def _like(self, group: Group) -> Tensor:
        """As many other samples of the same classes."""
        labels, outside = self.scored.given("labels"), ~torch.isin(self.scored.indices, group.members)
        parts = []
        for label, count in group.classes.items():
            rows = ((labels == label) & outside).nonzero()[:, 0]
            most = -(-count * MOST_EMBEDDED // len(group.members))
            parts.append(self.scored.indices[rows[evenly_spaced(len(rows), most)]] if len(rows) else rows)
        return torch.cat(parts)


def _map(
    scored: Candidates, conditions: Sequence[Condition], selections: Sequence[Tensor], names: Sequence[str], seed: int
) -> MapData:
    places, method, _ = in_the_plane(scored.given("embeddings"), seed)
    return MapData(
        indices=scored.indices,
        places=places,
        losses=scored.given("losses"),
        labels=scored.given("labels"),
        predicted=scored.given("logits").argmax(dim=1),
        conditions=conditions,
        selections=selections,
        class_names=names,
        method=method,
    )
