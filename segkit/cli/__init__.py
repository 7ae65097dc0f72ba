"""Parsing only; the work is in ``segkit.workflows``."""
