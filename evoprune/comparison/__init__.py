"""Comparison: methods side by side, over sparsities, seeds and data sets."""
