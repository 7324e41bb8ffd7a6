"""A domain by prompt: accuracy on the source and on targets of which the pool has few images or none (the paper's
Table 3, where it has none), and whether a prompted selection finds those few (its Figure 3).

    python recipes/ood.py recipes/configs/ood.yaml

The grid is run as `compare.py` runs it: it can be stopped and taken up anywhere, started several times, and `--report`
writes what is through. Rates are picked on the source's validation split; the picked runs' models see the test split
and each of the grid's `targets` once: the test split's images under a corruption, or ImageNet-C (`dataset_name`). The
report is `ood.md`, a figure of each pool with samples of a domain, and `results.json`, from which `report.py` makes
its tables too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

sys.path.insert(0, str(Path(__file__).parent))
from compare import command
from comparison import REFERENCE, Results, differences, markdown, methods_of, pools_of, tflops, with_error
from conditions import (
    ACCURACY,
    SELECTED,
    accuracies,
    base_rate,
    domains_of,
    figures,
    precision,
    sections,
    seen_in_training,
    together,
    written,
)
from readings import READINGS

from vecaf_hf.cli.terminal import run_in_terminal

# Of the table: whose accuracies are subtracted, where a pool has them.
OPPONENTS = (REFERENCE, "activeft")


def table(results: Results, pool: str, opponents: Sequence[str] = OPPONENTS) -> str:
    """One row a method: accuracy on the source and on each target, less the opponents', what of the selected is of each
    domain, and all work."""
    found = methods_of(results, pool)
    opponents = [name for name in opponents if name in found]
    # Runs that have seen the targets in training too are judged by them together.
    both = seen_in_training(found)
    at = {method: {**accuracies(entry), **(together(entry) if both else {})} for method, entry in found.items()}
    header = ["method"]
    for place in next(iter(at.values())):
        title = READINGS.get(place, place)
        header += [f"{title} accuracy, %", *(f"{title} less `{name}`'s, paired" for name in opponents)]
    header += [f"{domain} among the selected, times its part of the pool" for domain in domains_of(found)]
    rows = [[*header, "all-in TFLOPs", "n"]]
    for method, entry in found.items():
        cells = [f"`{method}`"]
        for place, values in at[method].items():
            cells.append(with_error(values))
            for name in opponents:
                less = differences(values, at[name][place])
                cells.append(with_error(less, sign="+") if name != method else "")
        for domain in domains_of(found):
            times = precision(entry, domain).mean(1) / base_rate(entry, domain)
            cells.append(with_error(times.tolist()))
        rows.append([*cells, tflops(entry["runs"]), str(len(entry["runs"]))])
    return markdown(rows)


def short_tables(results: Results) -> str:
    """Of each pool one, without the differences."""
    return "\n\n".join(table(results, pool, opponents=()) for pool in pools_of(results))


def _more(results: Results, pool: str) -> str:
    """What else the runs tell."""
    return written({name: one for name, one in sections(results, pool).items() if name not in (ACCURACY, SELECTED)})


def write_report(results: Results, folder: Path) -> str:
    """Write the tables and, of a pool with samples of a domain, the figure; returns the tables."""
    matplotlib.use("Agg")
    pools = pools_of(results)
    text = "\n".join(f"### Pool `{pool}`\n\n{table(results, pool)}\n{_more(results, pool)}" for pool in pools)
    (folder / "ood.md").write_text(text)
    for name, figure in figures(results, pools).items():
        figure.savefig(folder / name, dpi=110)
    return text


if __name__ == "__main__":
    sys.exit(run_in_terminal(Path(sys.argv[0]).name, lambda: command(__doc__, write_report)))
