"""How figures look: one size, one set of colours that can be told apart without colour vision (P. Tol's bright)."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLORS = {"synthetic": "#EE6677", "real": "#4477AA", "all": "#228833", "other": "#AA3377", "reference": "#BBBBBB"}
CYCLE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
NARROW = 4.9  # inches of a figure that a telephone shows whole, with letters that can be read


def new_figure(width: float = 8.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
