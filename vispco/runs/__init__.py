"""Run folders and trackers."""

from vispco.runs.folder import RunFolder
from vispco.runs.lock import alone_in
from vispco.runs.settings import RunSettings
from vispco.runs.tracker import NoTracker, Tracker, WandbTracker

__all__ = ["NoTracker", "RunFolder", "RunSettings", "Tracker", "WandbTracker", "alone_in"]
