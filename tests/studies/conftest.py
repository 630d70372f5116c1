"""What all tests of studies share: what every figure that is drawn in one has to keep to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from matplotlib.figure import Figure

from synthicl.report import style
from synthicl.report.style import NARROW


@pytest.fixture(autouse=True)
def figures_say_what_is_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at each figure that a test had drawn: its label is a sentence, and it fits onto a telephone."""
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
        assert figure.get_figwidth() <= NARROW, f"scrolls where the page is 390 pixels wide: {label}"
