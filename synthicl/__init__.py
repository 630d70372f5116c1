"""synthicl: distil a labelled image dataset into a few synthetic images for in-context classification."""

import os
from importlib import import_module
from typing import Any

# OpenMP's threads wait for each other by spinning, which takes the time of the thread that they wait for where a core
# is busy; threads that sleep at once are slow to wake where none is. Here they spin for some microseconds and sleep
# then: near the better of the two on an idle and on a busy machine (docs/speed.md). Read once, when torch loads OpenMP.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
__all__ = ["ContextSet", "InContextClassifier", "__version__"]

_MODULES = {"ContextSet": "synthicl.artefact.context_set", "InContextClassifier": "synthicl.artefact.classifier"}


def __getattr__(name: str) -> Any:
    """Import a class when it is asked for: the first checks of a command line run before torch is loaded."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'synthicl' has no attribute {name!r}")
