"""Channels of a network: those that always have one value or that nobody reads, and their removal."""
