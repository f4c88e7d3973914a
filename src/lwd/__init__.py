"""Robots that learn while they are deployed (arXiv 2605.00416)."""

__version__ = "0.1.0"
