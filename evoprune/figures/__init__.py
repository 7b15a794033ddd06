"""Figures of runs and comparisons, drawn from their folders.

``runs`` and ``comparisons`` hold the registries and draw all figures of a folder; ``of_run`` and ``of_comparison`` have one
file a figure; ``drawing`` writes files, ``styles`` has colours and scales. A new figure of runs is one function, registered by
``ep.register.figure``.
"""
