"""synthicl: distil a labelled image dataset into a few synthetic images for in-context classification."""

import ctypes
import os
import sys
from importlib import import_module
from typing import Any

# OpenMP's threads wait for each other by spinning, which takes the time of the thread that they wait for where a core
# is busy; threads that sleep at once are slow to wake where none is. Here they spin for some microseconds and sleep
# then, which backbones that make up most of a step gain from (docs/speed.md). Read once, when torch loads OpenMP.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# glibc gives the memory of a step back and faults it in again at the next one, which is a good part of a step where
# activations are large (docs/speed.md). Here it keeps what it has. -3 and -1 are M_MMAP_THRESHOLD and M_TRIM_THRESHOLD
# of malloc.h, in bytes.
if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
    _libc = ctypes.CDLL(None)
    if hasattr(_libc, "mallopt"):  # musl has none
        _libc.mallopt(-3, 2**30)
        _libc.mallopt(-1, 2**31 - 1)

__version__ = "0.1.0"
__all__ = ["ContextSet", "InContextClassifier", "__version__"]

_MODULES = {"ContextSet": "synthicl.artefact.context_set", "InContextClassifier": "synthicl.artefact.classifier"}


def __getattr__(name: str) -> Any:
    """Import a class when it is asked for: the first checks of a command line run before torch is loaded."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'synthicl' has no attribute {name!r}")
