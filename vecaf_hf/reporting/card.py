"""The model card of a run: rendered from `template.md`, brought into a card that is already there."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData
from transformers import Trainer

from vecaf_hf.printable import listed, printable
from vecaf_hf.reporting.amending import amended
from vecaf_hf.reporting.loading import TIMM, library_of, loading_code
from vecaf_hf.reporting.markdown import escaped, markdown_table
from vecaf_hf.reporting.origins import Origin, dataset_origin, hub_id, model_origin
from vecaf_hf.reporting.plots import write_plots
from vecaf_hf.reporting.reproduction import as_code
from vecaf_hf.reporting.results import eval_results, final_metrics, metric_rows
from vecaf_hf.reporting.summary import class_rows, cost_rows, loop_rows
from vecaf_hf.selection import STRATEGIES

if TYPE_CHECKING:
    from vecaf_hf.trainer import VeCAFTrainer

CARD = "README.md"
TEMPLATE = Path(__file__).with_name("template.md")
PLOTS = "plots"
PAPER = "https://arxiv.org/abs/2401.07853"
TASK = "image-classification"
# Stands for the repository until there is one.
NO_REPOSITORY = "USER/MODEL"
# Metadata of another name than the argument of `Trainer.create_model_card` that sets it.
KEYS = {"finetuned_from": "base_model", "tasks": "pipeline_tag"}
# Characters of a list of names.
LONGEST_LIST = 300


def write_card(trainer: VeCAFTrainer, folder: Path, given: Mapping[str, Any]) -> Path:
    """Write the run's card and its pictures, or renew its sections in the card that lies there; returns its path.

    No network is needed.

    Args:
        folder: The run's.
        given: Arguments of `Trainer.create_model_card`. They win over what the card or the run says.

    Raises:
        ValueError: The card that lies there has metadata that cannot be read.
    """
    path = folder / CARD
    plots = [plot.name for plot in write_plots(trainer, folder / PLOTS)] if trainer.loop_records else []
    card = _rendered(trainer, given, plots)
    if path.is_file():
        # Bytes that are no UTF-8 come through too.
        existing = path.read_bytes().decode("utf-8", "surrogateescape")
        card = amended(existing, card, given=keys_given(given))
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{CARD}.tmp"
    unfinished.write_bytes(card.encode("utf-8", "surrogateescape"))
    os.replace(unfinished, path)
    return path


def given_to_card(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """What a call of `Trainer.create_model_card` gives, by name."""
    bound = inspect.signature(Trainer.create_model_card).bind(None, *args, **kwargs).arguments
    return {name: value for name, value in bound.items() if name != "self"}


def keys_given(given: Mapping[str, Any]) -> set[str]:
    """Metadata that arguments of `Trainer.create_model_card` set."""
    return {KEYS.get(name, name) for name, value in given.items() if value is not None}


def _rendered(trainer: VeCAFTrainer, given: Mapping[str, Any], plots: list[str]) -> str:
    args, state = trainer.args, trainer.state
    weights = model_origin(trainer.model, given.get("finetuned_from"))
    data = dataset_origin(trainer.train_dataset, _first(given.get("dataset_tags")), _first(given.get("dataset")))
    best_step = state.best_global_step if trainer.best_is_loaded else None
    metrics = final_metrics(state.log_history, best_step)
    records, strategy = trainer.loop_records, args.to_dict()["strategy"]
    name = given.get("model_name") or (args.hub_model_id or Path(str(args.output_dir)).name).split("/")[-1]
    # What YAML would fold or a reader not see is written out.
    name = printable(name)
    metadata = _metadata(trainer, given, weights, data, name, metrics)
    table, classes = metric_rows(metrics), class_rows(records, trainer.class_names)
    card: ModelCard = ModelCard.from_template(
        metadata,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=escaped(name) or "Model",
        paper=PAPER,
        base=_linked(weights, ""),
        data=_linked(data, "datasets/"),
        base_license=escaped(weights.license or "not known here"),
        data_license=escaped(data.license or "not known here"),
        loops=records,
        selected=" or ".join(sorted({f"{record.selected:,}" for record in records})),
        pool_size=f"{len(trainer.train_dataset):,}" if trainer.train_dataset is not None else "",
        metrics=markdown_table(table) if table else "",
        best_step=best_step,
        loading=loading_code(trainer.model, trainer.processing_class is not None, _repository(trainer)),
        strategy=escaped(strategy),
        strategy_summary=STRATEGIES[strategy].summary if strategy in STRATEGIES else "",
        loop_table=markdown_table(loop_rows(records, state.log_history)) if records else "",
        class_table=markdown_table(classes) if classes else "",
        cost_table=markdown_table(cost_rows(trainer.meter.state()["work"])),
        code=as_code(args, trainer.cea),
        versions=_versions(),
        processes=args.world_size,
        revision=data.revision,
        limitations=limitations(trainer, metrics),
        **{f"{plot.partition('.')[0]}_plot": f"{PLOTS}/{plot}" for plot in plots},
    )
    return f"{card.content}\n"


def _metadata(
    trainer: VeCAFTrainer,
    given: Mapping[str, Any],
    weights: Origin,
    data: Origin,
    name: str,
    metrics: Mapping[str, Mapping[str, float]],
) -> ModelCardData:
    task = _first(given.get("tasks")) or TASK
    wrapped = getattr(getattr(trainer.model, "config", None), "model_type", None) == TIMM
    results = eval_results(metrics, task, data)
    return ModelCardData(
        base_model=weights.hub_id,
        datasets=_ids(given.get("dataset_tags")) or ([data.hub_id] if data.hub_id else None),
        language=given.get("language"),
        library_name=library_of(trainer.model),
        license=given.get("license") or weights.license,
        metrics=sorted({result.metric_type for result in results if result.metric_type != "loss"}) or None,
        pipeline_tag=task,
        tags=[
            task,
            "vecaf",
            *(["timm"] if wrapped else []),
            *map(printable, _listed(given.get("tags"))),
        ],
        eval_results=results or None,
        # Without results it would become metadata of its own.
        model_name=name if results else None,
    )


def limitations(trainer: VeCAFTrainer, metrics: Mapping[str, Any]) -> list[str]:
    """What somebody who uses the model should know, as far as the run itself tells."""
    args, records = trainer.args, trainer.loop_records
    found = []
    if records:
        seen, pool = sum(record.new for record in records), len(trainer.train_dataset)
        found.append(
            f"It was trained on {seen:,} different samples of a pool of {pool:,}, chosen by the strategy above."
        )
        counted = {label for record in records for label in record.class_counts}
        names = [name for label, name in enumerate(trainer.class_names) if counted and label not in counted]
        if names:
            found.append(f"No sample of these classes was selected: {escaped(listed(names), LONGEST_LIST)}.")
        if trainer.skipped_samples:
            found.append(f"{len(trainer.skipped_samples):,} samples of the pool could not be loaded and were left out.")
    if args.load_best_model_at_end and "validation" in metrics:
        found.append("The validation metrics are those that the checkpoint was chosen by, and so flatter it.")
    if metrics and "test" not in metrics:
        found.append("There are no metrics of a test set that was never looked at in training.")
    if metrics:
        found.append(f"The metrics are those of one run, with seed {args.seed}: another seed gives others.")
    if trainer.cea is not None:
        found.append("Captions moved the embeddings in training (CEA); the saved model is the plain one.")
    return [*found, "It has not been examined for bias, nor on images unlike those of its training data."]


def _versions() -> str:
    from vecaf_hf import __version__  # It imports this module.

    versions = {
        "vecaf_hf": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "datasets": datasets.__version__,
    }
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _repository(trainer: VeCAFTrainer) -> str:
    named = trainer.hub_model_id or trainer.args.hub_model_id
    return hub_id(named) or NO_REPOSITORY


def _linked(origin: Origin, prefix: str) -> str:
    if origin.hub_id is None:
        return escaped(origin.name)
    return f"[{escaped(origin.name)}](https://huggingface.co/{prefix}{origin.hub_id})"


def _ids(names: Any) -> list[str]:
    return [found for name in _listed(names) if (found := hub_id(name))]


def _first(value: Any) -> Any:
    return next(iter(_listed(value)), None)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
