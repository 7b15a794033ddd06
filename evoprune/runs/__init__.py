"""Runs: the folder of a run, its records, and its result."""
