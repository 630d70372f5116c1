"""Classifiers fitted on a context set and scored on embeddings they have not seen.

A probe is one file here that puts a factory into ``REGISTERED``: ``make(setting: ProbeSetting) -> Probe``. What needs a
package that the project does not install stands in ``OPTIONAL`` instead: it is there for who asks for it by name, and
left out where all probes are meant.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from synthicl.core.errors import UserError
from synthicl.core.registry import registered

if TYPE_CHECKING:
    from synthicl.probes.probe import Probe, ProbeSetting


def probe_factory(name: str) -> Callable[[ProbeSetting], Probe]:
    """What makes the probe called ``name``, optional ones included.

    Raises:
        UserError: there is none; the message lists the names.
    """
    known: dict[str, Callable[[ProbeSetting], Probe]] = registered(sys.modules[__name__])  # imports all modules
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        known |= getattr(sys.modules[module.name], "OPTIONAL", {})
    if name not in known:
        raise UserError(f"--probes={name}: unknown. Choose among: {', '.join(sorted(known))}.")
    return known[name]
