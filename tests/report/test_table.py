"""Tables as text."""

import numpy as np
import pytest

from synthicl.core.statistics import Comparison, Interval, holm
from synthicl.report.table import Table, difference_cells, markdown, number


def test_markdown():
    table = Table("title", ["a", "b"], [["1", "2|3"]])
    assert markdown(table) == "| a | b |\n| --- | --- |\n| 1 | 2\\|3 |"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.05, "0.05"),
        (1.0, "1"),
        (12.34, "12.3"),
        (1e4, "10,000"),
        (12345.6, "12,300"),
        (4.2e-6, "0.0000042"),
        (0, "0"),
    ],
)
def test_numbers_without_exponents(value, written):
    assert number(value) == written


def test_differences_have_a_sign_and_corrected_p_values():
    p_values = np.array([0.004, 0.00001, 0.5])
    cells = difference_cells([Comparison(Interval(0.052, -0.01, 0.1), p) for p in p_values])
    assert [points for points, _ in cells] == ["+5.2 [-1.0, +10.0]"] * 3
    assert [text for _, text in cells] == ["0.008", "< 0.001", "0.500"]
    assert holm(list(p_values))[0] == 0.008
