"""Searches for schedules: learned by gradient, and the baselines they are held against."""

from vispco.search.autoprune import fit_curve, mean_information, retention
from vispco.search.fitprune import Calibration, FitPruneSearch, Fitted
from vispco.search.journal import working
from vispco.search.lagrangian import AugmentedLagrangian
from vispco.search.learned import Learned, LearnedSearch
from vispco.search.learned_settings import LearnedSettings
from vispco.search.methods import GRIDS
from vispco.search.polish import Polished, polish
from vispco.search.predictor import Answers, Predictor, PromptFeatures
from vispco.search.sampled import Measured, Proposal, SampledSearch, Space, Told, check_knobs, share_knobs
from vispco.search.sensitivity import CutProgram
from vispco.search.space import cheapest_schedule, fit_to_budget, monotone_schedules, step_schedules
from vispco.search.studies import open_storage
from vispco.search.training import Progress
from vispco.search.withdrawal import choose_layers, withdrawal_schedules

__all__ = [
    "GRIDS",
    "Answers",
    "AugmentedLagrangian",
    "Calibration",
    "CutProgram",
    "FitPruneSearch",
    "Fitted",
    "Learned",
    "LearnedSearch",
    "LearnedSettings",
    "Measured",
    "Polished",
    "Predictor",
    "Progress",
    "PromptFeatures",
    "Proposal",
    "SampledSearch",
    "Space",
    "Told",
    "cheapest_schedule",
    "check_knobs",
    "choose_layers",
    "fit_curve",
    "fit_to_budget",
    "mean_information",
    "monotone_schedules",
    "open_storage",
    "polish",
    "retention",
    "share_knobs",
    "step_schedules",
    "withdrawal_schedules",
    "working",
]
