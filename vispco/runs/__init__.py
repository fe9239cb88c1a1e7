"""Run folders and trackers."""

from vispco.runs.comparison import record_comparison
from vispco.runs.composed import read_composed
from vispco.runs.folder import RunFolder
from vispco.runs.lock import alone_in
from vispco.runs.settings import RunSettings
from vispco.runs.tracker import NoTracker, Result, Tracker, WandbTracker

__all__ = [
    "NoTracker",
    "Result",
    "RunFolder",
    "RunSettings",
    "Tracker",
    "WandbTracker",
    "alone_in",
    "read_composed",
    "record_comparison",
]
