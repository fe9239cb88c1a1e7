"""Samples, the tables they are read from, and scorers."""

from vispco.data.samples import Sample, read_tsv
from vispco.data.scorers import exact_match
from vispco.data.sources import load_samples, user_cache

__all__ = ["Sample", "exact_match", "load_samples", "read_tsv", "user_cache"]
