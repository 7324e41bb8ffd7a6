"""The model card of a run: rendered from `template.md`, brought into a card that is already there."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData
from transformers import Trainer
from transformers.modelcard import TASK_MAPPING, _get_mapping_values

from vecaf_hf import __version__
from vecaf_hf.data.whole_files import write_whole
from vecaf_hf.printable import listed, printable
from vecaf_hf.reporting import where_it_fails
from vecaf_hf.reporting.amending import amended
from vecaf_hf.reporting.loading import TIMM, library_of, loading_code
from vecaf_hf.reporting.markdown import escaped, markdown_table
from vecaf_hf.reporting.origins import Origin, dataset_origin, hub_id, model_origin
from vecaf_hf.reporting.plots import write_plots
from vecaf_hf.reporting.report import RunReport
from vecaf_hf.reporting.reproduction import as_code
from vecaf_hf.reporting.results import eval_results, final_metrics, metric_rows
from vecaf_hf.reporting.summary import class_rows, cost_rows, loop_rows
from vecaf_hf.reporting.where_it_fails import SHOWN
from vecaf_hf.selection import STRATEGIES

CARD = "README.md"
TEMPLATE = Path(__file__).with_name("template.md")
PLOTS = "plots"
PAPER = "https://arxiv.org/abs/2401.07853"
TASK = "image-classification"
KINDS = {
    TASK: "An image classifier",
    "text-classification": "A text classifier",
    "audio-classification": "An audio classifier",
    "token-classification": "A token classifier",
    "image-segmentation": "A segmentation model",
    "object-detection": "An object detector",
}
# Stands for the repository until there is one.
NO_REPOSITORY = "USER/MODEL"
# Metadata of another name than the argument of `Trainer.create_model_card` that sets it.
KEYS = {"finetuned_from": "base_model", "tasks": "pipeline_tag"}
# Characters of a list of names.
LONGEST_LIST = 300


def write_card(report: RunReport, folder: Path, given: Mapping[str, Any]) -> Path:
    """Write the run's card and its pictures, or renew its sections in the card that lies there; returns its path.

    No network is needed.

    Args:
        folder: The run's.
        given: Arguments of `Trainer.create_model_card`. They win over what the card or the run says.

    Raises:
        ValueError: The card that lies there has metadata that cannot be read.
    """
    plots = [plot.name for plot in write_plots(report, folder / PLOTS)] if report.records else []
    card = _rendered(report, given, plots)
    if (existing := read_card(folder)) is not None:
        card = amended(existing, card, given=keys_given(given))
    return save_card(folder, card)


def read_card(folder: Path) -> str | None:
    """The text of the card that lies in a run's folder, if there is one; bytes that are no UTF-8 come through too."""
    path = folder / CARD
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else None


def save_card(folder: Path, card: str) -> Path:
    """Write a text of `read_card`'s kind as the folder's card, whole; returns its path."""
    path = folder / CARD
    write_whole(path, lambda unfinished: unfinished.write_bytes(card.encode("utf-8", "surrogateescape")))
    return path


def given_to_card(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """What a call of `Trainer.create_model_card` gives, by name."""
    bound = inspect.signature(Trainer.create_model_card).bind(None, *args, **kwargs).arguments
    return {name: value for name, value in bound.items() if name != "self"}


def keys_given(given: Mapping[str, Any]) -> set[str]:
    """Metadata that arguments of `Trainer.create_model_card` set."""
    return {KEYS.get(name, name) for name, value in given.items() if value is not None}


def _rendered(report: RunReport, given: Mapping[str, Any], plots: list[str]) -> str:
    args = report.args
    weights = model_origin(report.model, given.get("finetuned_from"))
    data = dataset_origin(report.train_dataset, _first(given.get("dataset_tags")), _first(given.get("dataset")))
    best_step = report.best_step
    metrics = final_metrics(report.history, best_step)
    records, strategy = report.records, args.to_dict()["strategy"]
    name = given.get("model_name") or (args.hub_model_id or Path(str(args.output_dir)).name).split("/")[-1]
    # What YAML would fold or a reader not see is written out.
    name = printable(name)
    metadata = _metadata(report, given, weights, data, name, metrics)
    table, classes = metric_rows(metrics), class_rows(records, report.class_names)
    card: ModelCard = ModelCard.from_template(
        metadata,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=escaped(name) or "Model",
        paper=PAPER,
        kind=KINDS.get(_task(report, given), "A model"),
        base=_linked(weights, ""),
        data=_linked(data, "datasets/"),
        base_license=escaped(weights.license or "not known here"),
        data_license=escaped(data.license or "not known here"),
        loops=records,
        selected=" or ".join(sorted({f"{record.selected:,}" for record in records})),
        pool_size=f"{len(report.train_dataset):,}" if report.train_dataset is not None else "",
        metrics=markdown_table(table) if table else "",
        best_step=best_step,
        loading=loading_code(report.model, report.has_processor, _repository(report)),
        strategy=escaped(strategy),
        strategy_summary=STRATEGIES[strategy].summary if strategy in STRATEGIES else "",
        loop_table=markdown_table(loop_rows(records, report.history)) if records else "",
        class_table=markdown_table(classes) if classes else "",
        cost_table=markdown_table(cost_rows(report.work)),
        code=as_code(args, report.cea),
        versions=_versions(),
        processes=args.world_size,
        revision=data.revision,
        limitations=limitations(report, metrics),
        failing=_failing(report),
        **{f"{plot.partition('.')[0]}_plot": f"{PLOTS}/{plot}" for plot in plots},
    )
    return f"{card.content}\n"


def _metadata(
    report: RunReport,
    given: Mapping[str, Any],
    weights: Origin,
    data: Origin,
    name: str,
    metrics: Mapping[str, Mapping[str, float]],
) -> ModelCardData:
    task = _task(report, given)
    wrapped = getattr(getattr(report.model, "config", None), "model_type", None) == TIMM
    results = eval_results(metrics, task, data)
    return ModelCardData(
        base_model=weights.hub_id,
        datasets=_ids(given.get("dataset_tags")) or ([data.hub_id] if data.hub_id else None),
        language=given.get("language"),
        library_name=library_of(report.model),
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


def _task(report: RunReport, given: Mapping[str, Any]) -> str:
    """As Trainer finds it: what the caller says, or by the model's class."""
    name = type(report.model).__name__
    found = [task for task, classes in TASK_MAPPING.items() if name in _get_mapping_values(classes)]
    return _first(given.get("tasks")) or (TASK if TASK in found or not found else found[0])


def limitations(report: RunReport, metrics: Mapping[str, Any]) -> list[str]:
    """What somebody who uses the model should know, as far as the run itself tells."""
    args, records = report.args, report.records
    found = []
    if records:
        seen, pool = sum(record.new for record in records), len(report.train_dataset)
        found.append(
            f"It was trained on {seen:,} different samples of a pool of {pool:,}, chosen by the strategy above."
        )
        counted = {label for record in records for label in record.class_counts}
        names = [name for label, name in enumerate(report.class_names) if counted and label not in counted]
        if names:
            found.append(f"No sample of these classes was selected: {escaped(listed(names), LONGEST_LIST)}.")
        if report.skipped:
            found.append(f"{report.skipped:,} samples of the pool could not be loaded and were left out.")
    if args.load_best_model_at_end and "validation" in metrics:
        found.append("The validation metrics are those that the checkpoint was chosen by, and so flatter it.")
    if metrics and "test" not in metrics:
        found.append("There are no metrics of a test set that was never looked at in training.")
    if metrics:
        found.append(f"The metrics are those of one run, with seed {args.seed}: another seed gives others.")
    if report.cea is not None:
        found.append("Captions moved the embeddings in training (CEA); the saved model is the plain one.")
    return [*found, "It has not been examined for bias, nor on data unlike those of its training."]


def _failing(report: RunReport) -> str:
    """The table of conditions; "" where none were looked for or found."""
    found = report.failing.conditions[:SHOWN] if report.failing else ()
    return markdown_table(where_it_fails.rows(found)) if found else ""


def _versions() -> str:
    versions = {
        "vecaf_hf": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "datasets": datasets.__version__,
    }
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _repository(report: RunReport) -> str:
    named = report.repository
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
