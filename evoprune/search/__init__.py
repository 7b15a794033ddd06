"""Searches: the methods, from a problem to a trained sparse network."""
