"""Evolutionary search for sparse neural networks at initialization."""

import lazy_loader

# The names are in __init__.pyi, each with its module. A module is imported when it is first used, so that the launcher of
# workers starts without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
