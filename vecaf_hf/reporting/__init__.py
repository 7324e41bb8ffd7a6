"""A finished run, to read and to look at."""

from vecaf_hf.reporting.plots import write_plots
from vecaf_hf.reporting.summary import summarise

__all__ = ["summarise", "write_plots"]
