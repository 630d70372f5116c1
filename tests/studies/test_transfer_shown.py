from dataclasses import replace

import numpy as np
import pytest

from synthicl.core.statistics import holm, paired_difference, wilson
from synthicl.studies.results import Results, Row
from synthicl.studies.transfer.show import difference_table, figures, finding, matrix, tables

QUERIES = 100
ROW = Row(
    "transfer", "random", 0, 0, 1, "tabicl", "rotated8", "test", "", 0, 0.5, 10, QUERIES, 0.1, 0.2, "train", "mini"
)
RIGHT = {  # queries answered correctly, by context and by who sees it
    ("synthetic (mini)", "mini"): 95,
    ("synthetic (mini)", "mini_conv"): 60,
    ("centroid", "mini"): 80,
    ("centroid", "mini_conv"): 81,
    ("class_mean", "mini"): 90,
    ("class_mean", "mini_conv"): 91,
}


@pytest.fixture
def results():
    results = Results(labels={"test": np.zeros(QUERIES, dtype=np.int64)})

    def add(correct, **values):
        for probe, preprocessing, less in (("tabicl", "rotated8", 0), ("linear", "", 5)):
            row = replace(ROW, probe=probe, preprocessing=preprocessing, accuracy=(correct - less) / QUERIES, **values)
            results.add(row, (np.arange(QUERIES) >= correct - less).astype(np.int64))

    for (context, target), correct in RIGHT.items():
        add(correct, context=context, backbone=target)
    for draw, correct in enumerate((40, 60)):
        add(correct, draw=draw, backbone="mini")
        add(correct + 10, draw=draw, backbone="mini_conv")
    return results


def test_the_matrix_has_sources_against_observers(results):
    table = matrix(results, "tabicl")
    assert table.header == ["context", "rows", "mini", "mini_conv"]
    assert [line[0] for line in table.body] == [
        "synthetic images (distilled with mini)",
        "class means (no images)",
        "nearest to class mean",
        "random images (2 draws)",
    ]
    estimate, low, high = (100 * value for value in wilson(60, QUERIES))
    assert table.body[0][3] == f"{estimate:.1f} [{low:.1f}, {high:.1f}]"
    assert table.body[3][2].startswith("50.0 [")
    assert "TabICL (8 rotated columns), 100 test queries" in table.title
    assert matrix(results, "linear").body[0][2].startswith("90.0")


@pytest.mark.parametrize("left", [["tabicl"], []])
def test_an_evaluation_that_was_interrupted_is_shown_as_far_as_it_went(results, left):
    results.drop([row for row in list(results.rows.values()) if row.probe not in left])
    results.add(replace(ROW, split="val"), np.zeros(QUERIES, dtype=np.int64))  # val is scored first
    shown = tables(results)
    assert len(shown) == 2 * len(left) and len(figures(results)) == len(left)


def test_a_probe_that_has_seen_one_context_only(results):
    linear = results.select(probe="linear")
    results.drop([row for row in linear if row.context != "class_mean"])
    assert [line[0] for line in matrix(results, "linear").body] == ["class means (no images)"]
    assert figures(results)


def test_a_cell_that_was_not_measured_stays_empty(results):
    for row in results.select(context="synthetic (mini)", backbone="mini_conv"):
        del results.rows[row.key]
    assert matrix(results, "tabicl").body[0][3] == ""
    assert len(difference_table(results).body) == 3
    assert figures(results)


def test_differences_are_paired_and_corrected(results):
    table = difference_table(results)
    assert [line[:2] for line in table.body] == [
        [f"synthetic (mini) - {name}", target]
        for target in ("mini", "mini_conv")
        for name in ("class means (no images)", "nearest to class mean", "random images")
    ]
    assert table.body[0][2].startswith("+5.0 [")
    assert table.body[3][2].startswith("-31.0 [")
    comparisons = []
    for target in ("mini", "mini_conv"):
        for name in ("class_mean", "centroid", "random"):
            pair = [
                results.correct(results.select(probe="tabicl", context=context, backbone=target))
                for context in ("synthetic (mini)", name)
            ]
            comparisons.append(paired_difference(*pair).p_value)
    assert [line[3] for line in table.body] == [f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in holm(comparisons)]


def test_a_dataset_alone_has_no_differences_to_name(results):
    for row in results.select(context="synthetic (mini)"):
        del results.rows[row.key]
    assert [table.title.split(",")[1].strip() for table in tables(results)] == [
        "TabICL (8 rotated columns)",
        "logistic regression",
    ]


def test_the_figure_has_a_panel_for_each_who_sees(results):
    (figure,) = figures(results).values()
    assert [axes.get_title("left") for axes in figure.axes] == ["seen by mini", "seen by mini_conv"]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[-1] == "synthetic images (distilled with mini), 10 rows"
    assert names[0] == "random images (2 draws), 10 rows"
    points = {
        (line.get_xdata()[0], line.get_markerfacecolor() != "white")
        for line in figure.axes[1].lines
        if line.get_marker() == "o"
    }
    assert points == {(60.0, False), (91.0, False), (81.0, False), (60.0, False)}
    filled = [
        line for line in figure.axes[0].lines if line.get_marker() in "os" and line.get_markerfacecolor() != "white"
    ]
    assert sorted(line.get_xdata()[0] for line in filled) == [90.0, 95.0]
    figure.canvas.draw()


def test_the_finding_is_about_backbones_that_the_images_were_not_made_with(results):
    assert finding(results).startswith(
        "With TabICL, seen by mini_conv, synthetic images (distilled with mini) give 60.0 ["
    )
    assert " points below class means (no images) and not told apart from random images (" in finding(results)
    for row in results.select(backbone="mini_conv"):
        del results.rows[row.key]
    assert finding(results) == ""
