"""Masks and trained networks in other code: sparse layers and networks for inference and training."""
