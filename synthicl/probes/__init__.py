"""Classifiers fitted on a context set and scored on embeddings they have not seen.

A probe is one file here that puts a factory into ``REGISTERED``: ``make(setting: ProbeSetting) -> Probe``; other
packages register theirs as entry points of the group ``synthicl.probes``. What needs a package that the project does
not install, or trains for long, stands in ``OPTIONAL`` instead: it is there for who asks for it by name, and left out
where all probes are meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from synthicl.core.registry import Registry, takes

if TYPE_CHECKING:
    from synthicl.probes.probe import Probe, ProbeSetting

ProbeFactory: TypeAlias = "Callable[[ProbeSetting], Probe]"


def _is_factory(item: object) -> TypeGuard[ProbeFactory]:
    return takes(item, 1)


PROBES: Registry[ProbeFactory] = Registry(
    __name__, "synthicl.probes", "--probes", "a function make(setting) -> Probe", _is_factory
)


def probe_factory(name: str) -> ProbeFactory:
    """What makes the probe called ``name``, optional ones included.

    Raises:
        UserError: there is none; the message lists the names.
    """
    return PROBES.get(name)
