"""Samples, the tables they are read from, and scorers."""

from vispco.data.readers import read_tsv
from vispco.data.samples import Picture, Row, Sample, data_fingerprint
from vispco.data.scorers import Scorer, make_scorer
from vispco.data.sources import load_samples, user_cache
from vispco.data.tasks import Task

__all__ = [
    "Picture",
    "Row",
    "Sample",
    "Scorer",
    "Task",
    "data_fingerprint",
    "load_samples",
    "make_scorer",
    "read_tsv",
    "user_cache",
]
