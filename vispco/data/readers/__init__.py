"""Readers of tables: one file each."""

from vispco.data.readers.tsv import read_tsv

__all__ = ["read_tsv"]
