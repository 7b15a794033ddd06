"""Figures of a comparison, one file each, drawn from the tables in its folder."""
