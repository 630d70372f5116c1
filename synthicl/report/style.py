"""How figures look: one size, one set of colours that can be told apart without colour vision (P. Tol's bright)."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLORS = {"synthetic": "#EE6677", "real": "#4477AA", "all": "#228833", "other": "#AA3377", "reference": "#BBBBBB"}
CYCLE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
NARROW = 4.9  # inches of a figure that a telephone shows whole, with letters that can be read
LINE = 62  # letters of a title of 9 points that such a figure has room for


def new_figure(width: float = 8.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def set_title(axes: Axes, text: str) -> None:
    """A title on as many lines as a narrow figure needs."""
    axes.set_title(textwrap.fill(text, LINE, break_on_hyphens=False), fontsize=9, loc="left")


def legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend of all these axes under the figure, a line for each entry: beside curves a narrow one has no room."""
    entries = [zip(*reversed(each.get_legend_handles_labels()), strict=True) for each in axes]
    by_label = {label: handle for of_axes in entries for label, handle in of_axes}
    figure.legend(by_label.values(), by_label.keys(), loc="outside lower left", frameon=False, fontsize=8.5)
