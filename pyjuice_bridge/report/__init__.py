"""The report page of a run, the comparison of several runs, and image grids."""

from pyjuice_bridge.report.compare import ComparedArm, Spread, compare_table
from pyjuice_bridge.report.images import grid_png
from pyjuice_bridge.report.page import write_report

__all__ = ["ComparedArm", "Spread", "compare_table", "grid_png", "write_report"]
