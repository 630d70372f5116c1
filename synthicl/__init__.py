"""synthicl: distil a labelled image dataset into a few synthetic images for in-context classification."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["ContextSet", "__version__"]


def __getattr__(name: str) -> Any:
    """Import ``ContextSet`` when it is asked for: the first checks of a command line run before torch is loaded."""
    if name == "ContextSet":
        from synthicl.context_set import ContextSet

        return ContextSet
    raise AttributeError(f"module 'synthicl' has no attribute {name!r}")
