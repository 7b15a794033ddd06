"""The kernels of the engine ``sparse``, compiled by numba."""
