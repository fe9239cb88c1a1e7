"""Plots and the HTML report of evaluated points."""

from vispco.report.html import BudgetRow, IndicatorRow, ReportData, write_report
from vispco.report.overlays import Overlay
from vispco.report.plots import COST_NAMES, cost_label, plot_frontiers, plot_schedules
from vispco.report.scatter import plot_costs

__all__ = [
    "COST_NAMES",
    "BudgetRow",
    "IndicatorRow",
    "Overlay",
    "ReportData",
    "cost_label",
    "plot_costs",
    "plot_frontiers",
    "plot_schedules",
    "write_report",
]
