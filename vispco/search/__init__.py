"""Searches for schedules: learned by gradient, and the baselines they are held against."""

from vispco.search.fitprune import Calibration, FitPruneSearch, Fitted
from vispco.search.lagrangian import AugmentedLagrangian
from vispco.search.learned import Learned, LearnedSearch, LearnedSettings, Progress
from vispco.search.methods import GRIDS
from vispco.search.sampled import Proposal, check_knobs, sample
from vispco.search.space import cheapest_schedule, fit_to_budget, monotone_schedules, step_schedules
from vispco.search.withdrawal import choose_layers, withdrawal_schedules

__all__ = [
    "GRIDS",
    "AugmentedLagrangian",
    "Calibration",
    "FitPruneSearch",
    "Fitted",
    "Learned",
    "LearnedSearch",
    "LearnedSettings",
    "Progress",
    "Proposal",
    "cheapest_schedule",
    "check_knobs",
    "choose_layers",
    "fit_to_budget",
    "monotone_schedules",
    "sample",
    "step_schedules",
    "withdrawal_schedules",
]
