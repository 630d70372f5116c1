"""Context sets made of real data: what a synthetic context set is compared with.

A builder is one file here that puts a function into ``REGISTERED``: ``build(train, ipc, seed) -> Coreset``, from the
clean training embeddings; other packages register theirs as entry points of the group ``synthicl.coresets``. Builders
see training data only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from synthicl.core.registry import Registry, takes

if TYPE_CHECKING:
    from synthicl.coresets.coreset import Coreset
    from synthicl.embeddings.labelled import LabelledEmbeddings

Builder: TypeAlias = "Callable[[LabelledEmbeddings, int, int], Coreset]"


def _is_builder(item: object) -> TypeGuard[Builder]:
    return takes(item, 3)


CORESETS: Registry[Builder] = Registry(
    __name__, "synthicl.coresets", "--contexts", "a function build(train, ipc, seed) -> Coreset", _is_builder
)
