"""What the tables and figures of a grid say of conditions: accuracy under each, what selections hold of each, what a
method takes until an accuracy under them, and the accuracy where classes have other shares than in the test split."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np
from comparison import (
    REFERENCE,
    SPENT,
    Array,
    Results,
    differences,
    ends,
    markdown,
    methods_of,
    part_of_whole,
    pools_of,
    references,
    styles,
    with_error,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from readings import READINGS, readings

GREY = "#666666"
# Of many conditions together, and under those names in `accuracies`.
TOGETHER = ("targets", "worst")
# Of `by_class_shares`: the classes' shares, with and without the correction of the logits.
SHARES = {"balanced": "equal class shares", "pool": "the pool's class shares"}
ADJUSTED = {"accuracy": "", "corrected": ", corrected"}
# Headings of tables.
ACCURACY = "Accuracy under each condition, %"
COST = "Cost until an accuracy over all conditions, of its whole run"
SELECTED = "Conditions among the selected"
CLASSES = "Accuracy by class shares, %"
FIGURES = "Figures of the selections"


def accuracies(entry: Mapping[str, Any]) -> dict[str, list[float]]:
    """Of each run's end, %, on the source and under each target."""
    runs = entry["runs"]
    targets = runs[0].get("targets", {})
    return {"source": ends(runs), **{name: [100 * run["targets"][name] for run in runs] for name in targets}}


def together(entry: Mapping[str, Any]) -> dict[str, list[float]]:
    """Of each run's end, %: the mean over the targets, and the worst of them."""
    found = [readings(0.0, run["targets"]) for run in entry["runs"]]
    return {name: [100 * one[name] for one in found] for name in TOGETHER}


def precision(entry: Mapping[str, Any], domain: str) -> Array:
    """The domain's part of what each run selected in each loop, %. [seeds, loops]."""
    return np.array([run["domains"][domain]["selected"] for run in entry["runs"]]) * 100


def base_rate(entry: Mapping[str, Any], domain: str) -> float:
    """The domain's part of the pool, %."""
    return 100 * fmean(run["domains"][domain]["pool"] for run in entry["runs"])


def domains_of(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The domains that a pool has samples of."""
    return list(dict.fromkeys(name for entry in found.values() for name in entry["runs"][0].get("domains", {})))


def accuracy_table(results: Results, pool: str) -> str:
    """One row a method, the best mean over conditions first: accuracies, and those over all conditions less the
    opponents', seed by seed."""
    found = methods_of(results, pool)
    places = [name for name in accuracies(next(iter(found.values()))) if name != "source"]
    opponents = references(found, "targets")
    header = ["method", READINGS["accuracy"], *(f"{READINGS[name]}, %" for name in TOGETHER), *places]
    header += [f"{READINGS[name]} less `{one}`'s, paired" for one in opponents for name in TOGETHER]
    rows = [[*header, "n"]]
    for method in sorted(found, key=lambda method: -fmean(together(found[method])["targets"])):
        entry = found[method]
        of = {**accuracies(entry), **together(entry)}
        cells = [f"`{method}`", *(with_error(of[name]) for name in ("source", *TOGETHER, *places))]
        for one in opponents:
            its = together(found[one])
            cells += ["" if one == method else with_error(differences(of[n], its[n]), sign="+") for n in TOGETHER]
        rows.append([*cells, str(len(entry["runs"]))])
    return markdown(rows)


def cost_table(results: Results, pool: str) -> str:
    """One row a method: what it takes until its mean validation curve is first where a reference's ends, over all
    conditions, as a part of what the reference's whole run takes."""
    found = methods_of(results, pool)
    opponents = references(found, "targets")
    asked = [(reading, one, spent) for reading in TOGETHER for one in opponents for spent in SPENT]
    rows = [
        ["method", *(f"{spent} until first at `{one}`'s last {READINGS[reading]}" for reading, one, spent in asked)]
    ]
    for method, entry in found.items():
        parts = [
            part_of_whole(entry["runs"], found[one]["runs"], SPENT[spent], reading) for reading, one, spent in asked
        ]
        rows.append([f"`{method}`", *map(str, parts)])
    return markdown(rows)


def selected_table(results: Results, pool: str) -> str:
    """One row a method: what of its selections is of each condition and of all of them, times their part of the
    pool."""
    found = {method: entry for method, entry in methods_of(results, pool).items() if "domains" in entry["runs"][0]}
    domains = domains_of(found)
    rows = [["method", *(f"{domain} among the selected, times its part of the pool" for domain in domains), "all"]]
    for method, entry in found.items():
        times = [precision(entry, domain).mean(1) / base_rate(entry, domain) for domain in domains]
        selected = sum(precision(entry, domain).mean(1) for domain in domains)
        everything = selected / sum(base_rate(entry, domain) for domain in domains)
        rows.append([f"`{method}`", *(with_error(one.tolist()) for one in [*times, everything])])
    return markdown(rows)


def shares_table(results: Results, pool: str) -> str:
    """One row a method: test accuracy, %, where classes have equal shares or the pool's, and each with the logits
    corrected for the shares that were trained on."""
    found = {method: entry for method, entry in methods_of(results, pool).items() if has_all(entry, "by_shares")}
    kinds = [(shares, adjusted) for shares in SHARES for adjusted in ADJUSTED]
    rows = [["method", *(f"{SHARES[shares]}{ADJUSTED[adjusted]}" for shares, adjusted in kinds), "n"]]
    for method, entry in found.items():
        runs = entry["runs"]
        cells = [with_error([100 * run["by_shares"][shares][adjusted] for run in runs]) for shares, adjusted in kinds]
        rows.append([f"`{method}`", *cells, str(len(runs))])
    return markdown(rows)


def figures_table(results: Results, pool: str) -> str:
    """One row a method: the figures that its strategy tells of its selections, mean over loops and standard error over
    seeds."""
    found = {method: figures_of(entry) for method, entry in methods_of(results, pool).items()}
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    rows = [["method", *(f"`{name}`" for name in names)]]
    for method, figures in found.items():
        if figures:
            rows.append([f"`{method}`", *(_figure(figures[name]) if name in figures else "" for name in names)])
    return markdown(rows)


def figures_of(entry: Mapping[str, Any]) -> dict[str, list[float]]:
    """Of each run, the mean over the loops that tell a figure, for what every run tells."""
    found: dict[str, list[float]] = {}
    for run in entry["runs"]:
        records = run.get("records", [])
        for name in dict.fromkeys(name for record in records for name in record):
            found.setdefault(name, []).append(fmean(record[name] for record in records if name in record))
    return {name: values for name, values in found.items() if len(values) == len(entry["runs"])}


def _figure(values: list[float]) -> str:
    mean = f"{fmean(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.2g}"


def has_all(entry: Mapping[str, Any], name: str) -> bool:
    """Whether each of its runs tells this."""
    return all(name in run for run in entry["runs"])


def sections(results: Results, pool: str) -> dict[str, str]:
    """Heading -> table, of all that the pool's runs tell."""
    found = methods_of(results, pool)
    told = {
        ACCURACY: (accuracy_table, all(has_all(entry, "targets") for entry in found.values())),
        COST: (cost_table, seen_in_training(found)),
        SELECTED: (selected_table, bool(domains_of(found))),
        CLASSES: (shares_table, any(has_all(entry, "by_shares") for entry in found.values())),
        FIGURES: (figures_table, any(figures_of(entry) for entry in found.values())),
    }
    return {heading: table(results, pool) for heading, (table, is_told) in told.items() if is_told}


def seen_in_training(found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether each point of each curve was seen under the targets."""
    return all("targets" in point for entry in found.values() for run in entry["runs"] for point in run["curve"])


def short_tables(results: Results) -> str:
    """Of each pool one, of what the READMEs speak of."""
    return "\n\n".join(accuracy_table(results, pool) for pool in pools_of(results))


def written(tables: Mapping[str, str]) -> str:
    """Tables under their headings."""
    return "".join(f"\n{heading}:\n\n{table}\n" for heading, table in tables.items())


def figures(results: Results, pools: list[str]) -> dict[str, Figure]:
    """File -> what of each selection is of which condition, of each pool that has some."""
    found = {pool: methods_of(results, pool) for pool in pools}
    return {f"{pool}_precision.png": precision_figure(one) for pool, one in found.items() if domains_of(one)}


def precision_figure(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """What of each loop's selection is of a domain, beside the domain's part of the pool; one panel a domain."""
    domains, lines = domains_of(found), lines_of(found)
    figure = Figure(figsize=(4.2 * len(domains) + 2.2, 3.8), layout="constrained")
    panels = figure.subplots(1, len(domains), squeeze=False, sharey=True)[0]
    for axes, domain in zip(panels, domains, strict=True):
        draw_precision(axes, found, lines, domain)
        axes.set(title=domain, xlabel="loop")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("part of the selected samples, %")
    panels[0].set_ylim(bottom=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize="small")
    return figure


def lines_of(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Method -> the line's name, which is that of all methods that select as much of every domain as it does."""
    alike: dict[tuple[bytes, ...], list[str]] = {}
    for method, entry in found.items():
        if entry["strategy"] != REFERENCE:
            key = tuple(precision(entry, domain).tobytes() for domain in domains_of(found))
            alike.setdefault(key, []).append(method)
    return {methods[0]: ",\n".join(methods) for methods in alike.values()}


def draw_precision(axes: Axes, found: Mapping[str, Mapping[str, Any]], lines: Mapping[str, str], domain: str) -> None:
    """One line for each of `lines_of`, and the domain's part of the pool."""
    style = styles(list(lines))
    for place, (method, label) in enumerate(lines.items()):
        values = precision(found[method], domain)
        seeds, loops = values.shape
        error = values.std(0, ddof=1) / seeds**0.5 if seeds > 1 else None
        # Side by side, that bars do not cover each other.
        across = np.arange(loops) + 0.03 * (place - (len(lines) - 1) / 2)
        axes.errorbar(across, values.mean(0), error, label=label, linewidth=1.6, marker="o", ms=3, **style[method])
    rate = fmean(base_rate(entry, domain) for entry in found.values())
    axes.axhline(rate, color=GREY, linewidth=1, linestyle=(0, (1, 1)), label="part of the pool")
