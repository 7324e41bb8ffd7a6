"""How a benchmark's ratios are told."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def summary(name: str, ratios: Sequence[float]) -> str:
    """Median, quartiles and count, on one line."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{name:20} median {middle:.3f}  quartiles {low:.3f} {high:.3f}  n = {len(ratios)}"
