"""Evaluated points, the frontier they form, indicators that compare frontiers, and confidence intervals."""

from vispco.frontier.indicators import best_at_cost, epsilon, hypervolume, igd_plus, pareto_front
from vispco.frontier.intervals import Interval, bootstrap_mean, paired_difference, paired_ratio
from vispco.frontier.points import Point, append_points, comparable, read_points
from vispco.frontier.ranks import kendall_tau, rank_correlation

__all__ = [
    "Interval",
    "Point",
    "append_points",
    "best_at_cost",
    "bootstrap_mean",
    "comparable",
    "epsilon",
    "hypervolume",
    "igd_plus",
    "kendall_tau",
    "paired_difference",
    "paired_ratio",
    "pareto_front",
    "rank_correlation",
    "read_points",
]
