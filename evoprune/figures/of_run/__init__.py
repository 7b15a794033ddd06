"""Figures of a run, one file each: its data, read from the run folder, and the functions that draw them on an ``Axes``."""
