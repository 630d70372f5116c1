"""The contexts that studies compare: real ones by their builders, the subject's synthetic ones, and their order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from synthicl.core.errors import UserError
from synthicl.coresets import CORESETS
from synthicl.distillation.callbacks.cost import seconds_of
from synthicl.studies.rivals import RIVALS
from synthicl.studies.scoring import Context
from synthicl.studies.subject import Subject

QUERY_SPLITS = ("val", "test")  # val rows are there so that what val chose can be seen
SELECTION = "selection_seconds"  # measure of a row: what it took to search, optimise or distil its context
FIRST, LAST = ("random", "centroid", "class_mean"), ("synthetic", "all")  # others stand between, by name


def real_contexts(subject: Subject, ipc: int, draws: int, names: Sequence[str] | None = None) -> list[Context]:
    """Contexts of the builders called ``names``, by default of all that are no option; ``random`` is drawn often.

    Raises:
        UserError: there is no such builder, or ``neighbours`` without synthetic images.
    """
    train = subject.embedded("train")
    neighbours = ["neighbours"] if subject.context_sets else []
    rivals = [name for name in RIVALS if name not in ("neighbours", *neighbours)] + neighbours
    known = [*CORESETS.names(optional=True), *rivals]
    contexts = []
    for name in [*CORESETS.names(), *neighbours] if names is None else names:
        if name not in known:
            raise UserError(f"--contexts={name}: unknown here. Choose among: {', '.join(known)}.")
        for draw in range(draws if name == "random" else 1):
            begin = time.perf_counter()
            rival = RIVALS.get(name)
            selected = rival(subject, ipc, draw) if rival else CORESETS.get(name)(train, ipc, draw)
            # What searches or optimises is compared at equal cost.
            made = {} if name in CORESETS.names() else {SELECTION: time.perf_counter() - begin}
            indices = selected.indices
            read = None if indices is None else lambda indices=indices: subject.images(indices)
            contexts.append(Context(name, draw, "", selected.rows, read, made))
    return contexts


def synthetic_contexts(subject: Subject) -> Iterable[Context]:
    """The subject's synthetic context sets, with the seconds of their distillation where the run's curve is there."""
    seconds = seconds_of(subject.folder)
    made = {} if seconds is None else {SELECTION: seconds}
    for checkpoint, found in subject.context_sets.items():
        images = found.images
        read = None if images is None else lambda images=images: images
        checkpoint = found.metadata.get("checkpoint", checkpoint)
        yield Context("synthetic", 0, checkpoint, found.rows, read, made)


def rank(context: str) -> int:
    """Where a context stands in tables and figures; those of the same rank stand by name."""
    order = [*FIRST, None, *LAST]
    return order.index(context if context in order else None)
