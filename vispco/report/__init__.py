"""Plots and the HTML report of evaluated points."""

from vispco.report.data import BudgetRow, Convergence, IndicatorRow, ReportData, TextTable
from vispco.report.html import write_report
from vispco.report.overlays import Overlay
from vispco.report.plots import COST_NAMES, cost_label, draw_frontiers, plot_frontiers, plot_schedules
from vispco.report.scatter import plot_costs
from vispco.report.slices import Ends, Scores

__all__ = [
    "COST_NAMES",
    "BudgetRow",
    "Convergence",
    "Ends",
    "IndicatorRow",
    "Overlay",
    "ReportData",
    "Scores",
    "TextTable",
    "cost_label",
    "draw_frontiers",
    "plot_costs",
    "plot_frontiers",
    "plot_schedules",
    "write_report",
]
