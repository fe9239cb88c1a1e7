"""Plots and the HTML report of evaluated points."""

from vispco.report.html import BudgetRow, IndicatorRow, ReportData, write_report
from vispco.report.overlays import Overlay
from vispco.report.plots import plot_frontiers, plot_schedules

__all__ = [
    "BudgetRow",
    "IndicatorRow",
    "Overlay",
    "ReportData",
    "plot_frontiers",
    "plot_schedules",
    "write_report",
]
