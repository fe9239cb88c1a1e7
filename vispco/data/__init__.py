"""Samples, the tables they are read from, and scorers."""

from vispco.data.generated import user_cache
from vispco.data.readers import Broken, read_tsv
from vispco.data.samples import Picture, Row, Sample, data_fingerprint
from vispco.data.sampling import Measure
from vispco.data.scorers import Scorer, make_scorer
from vispco.data.sources import Drawn, Source, load_samples
from vispco.data.splits import Splits, check_apart
from vispco.data.tasks import Task

__all__ = [
    "Broken",
    "Drawn",
    "Measure",
    "Picture",
    "Row",
    "Sample",
    "Scorer",
    "Source",
    "Splits",
    "Task",
    "check_apart",
    "data_fingerprint",
    "load_samples",
    "make_scorer",
    "read_tsv",
    "user_cache",
]
