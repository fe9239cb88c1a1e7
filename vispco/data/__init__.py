"""Samples and the tables they are read from."""

from vispco.data.samples import Sample, read_tsv
from vispco.data.sources import load_samples

__all__ = ["Sample", "load_samples", "read_tsv"]
