"""The engine ``sparse``: a population of sparse networks as one sparse network."""
