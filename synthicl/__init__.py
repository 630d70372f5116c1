"""synthicl: distil a labelled image dataset into a few synthetic images for in-context classification."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["ContextSet", "InContextClassifier", "__version__"]

_MODULES = {"ContextSet": "synthicl.context_set", "InContextClassifier": "synthicl.classifier"}


def __getattr__(name: str) -> Any:
    """Import a class when it is asked for: the first checks of a command line run before torch is loaded."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'synthicl' has no attribute {name!r}")
