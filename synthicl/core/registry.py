"""One mechanism for what there are several of: datasets, backbones, probes, coresets, objectives, studies.

A component of this package is an entry of the dict ``REGISTERED`` in some module of its room; a new file with such a
dict is found by itself, and no other file changes. A component of another package is an entry point in the room's
group, such as ``synthicl.datasets``; it is imported when it is asked for, and not before.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, NamedTuple, TypeGuard, TypeVar

from synthicl.core.errors import UserError

T = TypeVar("T")


class _Claim(NamedTuple):
    """A component before it is loaded: its name, where it stands, what to do if it is wrong."""

    name: str
    place: str
    remedy: str
    load: Callable[[], object]


@dataclass(frozen=True)
class Registry(Generic[T]):
    """The components of one kind by name.

    Attributes:
        room: the package whose modules define this project's own.
        group: the entry points of other packages.
        flag: what a user names one with.
        kind: what a component is, in words.
        fits: whether an object is one.
    """

    room: str
    group: str
    flag: str
    kind: str
    fits: Callable[[object], TypeGuard[T]]

    def names(self, optional: bool = False) -> list[str]:
        """The names: of this project's components, then of other packages'.

        Args:
            optional: with those that modules keep in ``OPTIONAL``: left out where all are meant, there for who asks.
        """
        return list(dict.fromkeys(claim.name for claim in self._claims(optional)))

    def get(self, name: str, flag: str = "") -> T:
        """The component called ``name``.

        Args:
            name: what the user asked for.
            flag: what it was named with, if not with the registry's own.

        Raises:
            UserError: there is none, or two; it cannot be imported, or is something else. The message says whose it is.
        """
        asked = f"{flag or self.flag}={name}"
        claims = [claim for claim in self._claims(optional=True) if claim.name == name]
        if not claims:
            raise UserError(f"{asked}: unknown. Choose one of: {', '.join(sorted(self.names(optional=True)))}.")
        if len(claims) > 1:
            places = " and for ".join(claim.place for claim in claims)
            raise UserError(f"{asked}: stands for {places}. Rename or uninstall all but one.")
        [claim] = claims
        try:
            item = claim.load()
        except Exception as error:  # whatever another package's modules raise when they are imported
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{asked}: {claim.place} cannot be imported ({reason}). {claim.remedy}") from error
        if not self.fits(item):
            raise UserError(f"{asked}: {claim.place} is not {self.kind}. {claim.remedy}")
        return item

    def _claims(self, optional: bool) -> Iterator[_Claim]:
        for info in pkgutil.iter_modules(importlib.import_module(self.room).__path__, f"{self.room}."):
            module = importlib.import_module(info.name)
            own: dict[str, object] = dict(getattr(module, "REGISTERED", {}))
            own |= getattr(module, "OPTIONAL", {}) if optional else {}
            for name, item in own.items():
                yield _Claim(name, info.name, "Mend it.", lambda item=item: item)  # type: ignore[misc]
        for plugin in plugins(self.group):
            owner = plugin.dist.name if plugin.dist else "its package"
            yield _Claim(plugin.name, f"{plugin.value} of {owner}", f"Mend or uninstall {owner}.", plugin.load)


def plugins(group: str) -> list[EntryPoint]:
    """The entry points of a group, by name; nothing of their packages is imported."""
    return sorted(entry_points(group=group), key=lambda plugin: plugin.name)


def instance_of(kind: type[T]) -> Callable[[object], TypeGuard[T]]:
    """What tells instances of a class from other objects."""

    def fits(item: object) -> TypeGuard[T]:
        return isinstance(item, kind)

    return fits


def takes(item: object, count: int) -> bool:
    """Whether an object can be called with ``count`` arguments."""
    try:
        inspect.signature(item).bind(*range(count))  # type: ignore[arg-type]  # an error if it is no function
    except (TypeError, ValueError):
        return False
    return True
