"""What a configuration costs: exact from integer counts, soft for the gradient."""

from vispco.cost.flops import DecoderShape, FlopCost, FlopReport, count_flops

REGISTRY = {"flops": FlopCost}
"""Costs by name."""

__all__ = ["REGISTRY", "DecoderShape", "FlopCost", "FlopReport", "count_flops"]
