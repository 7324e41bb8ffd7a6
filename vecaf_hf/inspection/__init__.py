"""A run to look at: before it is started, and from the folder that it leaves."""

from vecaf_hf.inspection.inspecting import inspect
from vecaf_hf.inspection.inspection import Inspection
from vecaf_hf.reporting.run import FinishedRun, read_run

__all__ = ["FinishedRun", "Inspection", "inspect", "read_run"]
