"""Searches for schedules: learned by gradient, and the baselines they are held against."""
