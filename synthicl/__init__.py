"""synthicl: distil a labelled image dataset into a few synthetic images for in-context classification."""

import os
from importlib import import_module
from typing import Any

# OpenMP's threads wait for each other by spinning, which takes the other thread's time where a core is busy: a run on
# two cores took 2 to 3 times as long beside another job (docs/speed.md). Read once, when torch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
__all__ = ["ContextSet", "InContextClassifier", "__version__"]

_MODULES = {"ContextSet": "synthicl.context_set", "InContextClassifier": "synthicl.classifier"}


def __getattr__(name: str) -> Any:
    """Import a class when it is asked for: the first checks of a command line run before torch is loaded."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'synthicl' has no attribute {name!r}")
