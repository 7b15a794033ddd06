"""Figures: drawn from run folders and comparisons."""
