"""The figures of all studies. What their labels say is looked at wherever one is drawn: conftest.py."""

import importlib
import inspect
import pkgutil

import pytest

from synthicl import studies
from synthicl.studies import STUDIES


def drawing():
    """Every function of a study that returns a figure, by its full name."""
    modules = [
        importlib.import_module(found.name) for found in pkgutil.walk_packages(studies.__path__, "synthicl.studies.")
    ]
    functions = [of for module in modules for _, of in inspect.getmembers(module, inspect.isfunction)]
    return {f"{of.__module__}.{of.__name__}": of for of in functions if of.__annotations__.get("return") == "Figure"}


@pytest.mark.parametrize("name", drawing())
def test_every_figure_says_what_is_to_be_seen(name):
    """To who cannot see it: its label is the text of the picture on the page."""
    assert "figure.set_label(" in inspect.getsource(drawing()[name])


def test_all_studies_that_draw_are_among_them():
    rooms = {name.split(".")[2] for name in drawing()}
    assert rooms == {name.replace("-", "_") for name in STUDIES.names()}
