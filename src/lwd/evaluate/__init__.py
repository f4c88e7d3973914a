"""Scores of a policy with intervals, the demo's summary and table, and the HTML report. NumPy only."""
