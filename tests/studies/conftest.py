"""What all tests of studies share: every figure that is drawn in one says in a sentence what is to be seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from matplotlib.figure import Figure

from synthicl.report import style


@pytest.fixture(autouse=True)
def figures_say_what_is_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at the label of each figure that a test had drawn."""
    drawn: list[Figure] = []
    canvas = style.FigureCanvasAgg

    def keep(figure: Figure) -> None:
        drawn.append(figure)
        canvas(figure)

    monkeypatch.setattr(style, "FigureCanvasAgg", keep)
    yield
    for figure in drawn:
        label = str(figure.get_label())
        assert label.endswith(".") and len(label.split()) > 6, f"no sentence: {label!r}"
