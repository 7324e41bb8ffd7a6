"""A domain by prompt: accuracy on the source and on targets of which the pool has few images or none (the paper's
Table 3, where it has none), and whether a prompted selection finds those few (its Figure 3).

    python recipes/ood.py recipes/configs/ood.yaml

The grid is run as `compare.py` runs it: it can be stopped and taken up anywhere, started several times, and `--report`
writes what is through. Rates are picked on the source's validation split; the picked runs' models see the test split
and each of the grid's `targets` once: the test split's images under a corruption, or ImageNet-C (`dataset_name`). The
report is `ood.md`, a figure of each pool with samples of a domain, and `results.json`, from which `comparison.py` makes
its tables too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))
from compare import command
from comparison import REFERENCE, Array, Results, ends, markdown, methods_of, pools_of, styles, tflops, with_error

from vecaf_hf.terminal import run_in_terminal

# Of the table: whose accuracies are subtracted, where a pool has them.
OPPONENTS = (REFERENCE, "activeft")
GREY = "#666666"


def accuracies(entry: Mapping[str, Any]) -> dict[str, list[float]]:
    """Of each run's end, %, on the source and on each target."""
    runs = entry["runs"]
    targets = runs[0].get("targets", {})
    return {"source": ends(runs), **{name: [100 * run["targets"][name] for run in runs] for name in targets}}


def precision(entry: Mapping[str, Any], domain: str) -> Array:
    """The domain's part of what each run selected in each loop, %. [seeds, loops]."""
    return np.array([run["domains"][domain]["selected"] for run in entry["runs"]]) * 100


def base_rate(entry: Mapping[str, Any], domain: str) -> float:
    """The domain's part of the pool, %."""
    return 100 * fmean(run["domains"][domain]["pool"] for run in entry["runs"])


def domains_of(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The domains that a pool has samples of."""
    return list(dict.fromkeys(name for entry in found.values() for name in entry["runs"][0].get("domains", {})))


def table(results: Results, pool: str, opponents: Sequence[str] = OPPONENTS) -> str:
    """One row a method: accuracy on the source and on each target, less the opponents', what of the selected is of each
    domain, and all work."""
    found = methods_of(results, pool)
    opponents = [name for name in opponents if name in found]
    places = list(accuracies(next(iter(found.values()))))
    header = ["method"]
    for place in places:
        header += [f"{place} accuracy, %", *(f"{place} less `{name}`'s, paired" for name in opponents)]
    header += [f"{domain} among the selected, times its part of the pool" for domain in domains_of(found)]
    rows = [[*header, "all-in TFLOPs", "n"]]
    for method, entry in found.items():
        cells = [f"`{method}`"]
        for place, values in accuracies(entry).items():
            cells.append(with_error(values))
            for name in opponents:
                pairs = zip(values, accuracies(found[name])[place], strict=True)
                cells.append(with_error([one - other for one, other in pairs], sign="+") if name != method else "")
        for domain in domains_of(found):
            times = precision(entry, domain).mean(1) / base_rate(entry, domain)
            cells.append(with_error(times.tolist()))
        rows.append([*cells, tflops(entry["runs"]), str(len(entry["runs"]))])
    return markdown(rows)


def short_tables(results: Results) -> str:
    """Of each pool one, without the differences."""
    return "\n\n".join(table(results, pool, opponents=()) for pool in pools_of(results))


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


def write_report(results: Results, folder: Path) -> str:
    """Write the tables and, of a pool with samples of a domain, the figure; returns the tables."""
    matplotlib.use("Agg")
    pools = pools_of(results)
    text = "\n".join(f"### Pool `{pool}`\n\n{table(results, pool)}\n" for pool in pools)
    (folder / "ood.md").write_text(text)
    for pool in pools:
        if domains_of(found := methods_of(results, pool)):
            precision_figure(found).savefig(folder / f"{pool}_precision.png", dpi=110)
    return text


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, lambda: command(__doc__, write_report)))
