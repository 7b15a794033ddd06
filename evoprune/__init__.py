"""Evolutionary search for sparse neural networks at initialization."""

import lazy_loader

# __init__.pyi says what is where. What is used is imported, so that the launcher of workers starts without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
