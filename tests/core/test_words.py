"""Names in words."""

import pytest

from synthicl.core.words import words, words_of_objective
from synthicl.coresets import CORESETS
from synthicl.probes import PROBES


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rotated16", "16 rotated columns"),
        ("pca2", "2 principal components"),
        ("class_mean", "class means (no images)"),
        ("my_plugin2", "my_plugin2"),
        ("<b>\n& 3", "<b>\n& 3"),
        ("", ""),
    ],
)
def test_words(name, said):
    assert words(name) == said


def test_no_key_of_this_project_has_to_be_read_as_it_is():
    for name in [*CORESETS.names(), *PROBES.names()]:
        assert "_" not in words(name)


def test_objectives():
    written = (
        "0.1 LinearGradientMatching(heads=32, view='augmented') + 1.0 InContext(queries=128) from 0.3 of the run on"
    )
    assert words_of_objective(written) == "linear gradient matching + TabICL in the loop"
    assert words_of_objective("Ridge(a=1) + Mine(b=2)") == "Ridge(a=1) + Mine(b=2)"
