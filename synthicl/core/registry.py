"""One mechanism for everything that multiplies: datasets, backbones, context builders, probes.

A component is an entry of the dict ``REGISTERED`` in some module of its package; a new file with such a dict is found
by itself, and no other file changes. The modules must be cheap to import: torch is imported inside their functions.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from synthicl.core.errors import UserError


def registered(package: ModuleType) -> dict[str, Any]:
    """All components of a package by name."""
    modules = [
        importlib.import_module(info.name) for info in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
    ]
    return {name: item for module in modules for name, item in getattr(module, "REGISTERED", {}).items()}


def lookup(package: ModuleType, name: str, what: str) -> Any:
    """The component called ``name``.

    Args:
        package: where it is looked for.
        name: what the user asked for.
        what: the flag or word to name in the message.

    Raises:
        UserError: there is none; the message lists the names.
    """
    known = registered(package)
    if name not in known:
        raise UserError(f"{what}={name}: unknown. Choose one of: {', '.join(sorted(known))}.")
    return known[name]
