"""Run folders and trackers."""

from vispco.runs.comparison import record_comparison
from vispco.runs.composed import read_composed
from vispco.runs.environment import environment, environment_differences, read_environments, record_environment
from vispco.runs.folder import STATE, RunFolder
from vispco.runs.lock import alone_in
from vispco.runs.settings import RunSettings
from vispco.runs.tracker import NoTracker, Result, Tracker, WandbTracker

__all__ = [
    "STATE",
    "NoTracker",
    "Result",
    "RunFolder",
    "RunSettings",
    "Tracker",
    "WandbTracker",
    "alone_in",
    "environment",
    "environment_differences",
    "read_composed",
    "read_environments",
    "record_comparison",
    "record_environment",
]
