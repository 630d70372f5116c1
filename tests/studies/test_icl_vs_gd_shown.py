from dataclasses import replace

import numpy as np
import pytest

from synthicl.studies.icl_vs_gd.compute import CURVES
from synthicl.studies.icl_vs_gd.show import RULES, figures, finding, tables
from synthicl.studies.results import Results, Row

RUN = {"learning_rates": [0.1, 1.0], "steps": 10}
ROW = Row("icl-vs-gd", "random", 0, 0, 1, "tabicl", "rotated8", "test", "", 0.5, 1, 6, 50, 0.1, 0.2, "train", run=RUN)


@pytest.fixture
def results():
    results = Results(labels={"test": np.arange(50) % 5})
    truth = results.labels["test"]
    for context, draw, same in (("random", 0, 30), ("random", 1, 40), ("synthetic", 0, 45)):
        tabicl = replace(
            ROW, context=context, draw=draw, measures={"self_agreement": 0.98, "self_squared_difference": 0.01}
        )
        results.add(tabicl, truth)
        measures = {"steps": 10 * (draw + 1), "learning_rate": 0.1, "agreement": same / 50, "squared_difference": 0.2}
        descent = replace(tabicl, probe="gradient_descent", measures=measures)
        results.add(descent, np.where(np.arange(50) < same, truth, 9))
        time = np.outer([0.1, 1.0], [0, 1, 10])
        results.arrays[CURVES + descent.key] = np.stack([time, np.full((2, 3), same / 50), np.full((2, 3), 0.2)])
    return results


def test_an_evaluation_that_was_interrupted_before_descent_shows_nothing(results):
    results.drop(results.select(probe="gradient_descent"))
    assert tables(results) == [] and figures(results) == {}


def test_more_contexts_than_colours(results):
    tabicl, descent = results.select(context="synthetic")
    for number in range(12):
        for row in (tabicl, descent):
            copy = replace(row, context=f"builder {number}")
            results.add(copy, results.predictions[row.key])
        results.arrays[CURVES + copy.key] = results.arrays[CURVES + descent.key]
    assert len(tables(results)[0].body) == 14
    assert figures(results)


def test_one_line_for_each_context(results):
    (table,) = tables(results)
    assert [line[0] for line in table.body] == ["random images (2 draws)", "synthetic"]
    assert [line[2] for line in table.body] == ["1 to 2", "1"]
    assert table.body[0][5].startswith("70.0 [")
    assert table.body[1][5].startswith("90.0 [")
    assert table.body[1][6:] == ["98.0", "0.2000", "0.0100"]
    assert table.body[1][3].startswith("100.0 [")
    assert table.body[1][4].startswith("90.0 [")
    assert len(table.header) == len(table.body[0])


def test_rules_beside_the_descent(results):
    """Synthetic: a rule agrees on 45 of 50, as the stopped descent does; random: on 20 where it does on 35."""
    for tabicl in results.select(probe="tabicl"):
        for rule in RULES:
            same = 45 if tabicl.context == "synthetic" else 20
            results.add(replace(tabicl, probe=rule), np.where(np.arange(50) < same, np.arange(50) % 5, 9))
    results.rows[results.select(probe="gradient_descent")[0].key].measures["on_edge"] = 1.0
    first, second = tables(results)
    assert first.body[0][2] == "1 to 2 (edge)" and "edge: of the steps" in first.title
    assert [line[0] for line in second.body] == ["random images", "synthetic"]
    assert [cell.split()[0] for cell in second.body[1][2:]] == ["90.0"] * 4 + ["100.0", "98.0"]
    assert "On synthetic an untuned rule" in second.title
    (figure,) = figures(results).values()
    assert "nearest row" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_contexts_of_two_sizes_are_named_in_words_with_their_size(results):
    for ipc in (1, 5):
        for row in results.select(context="synthetic", ipc=1):
            pair = replace(row, context="hard_pairs", ipc=ipc, n_context=5 * ipc)
            results.add(pair, results.predictions[row.key])
            for rule in RULES:
                results.add(replace(pair, probe=rule), results.predictions[row.key])
            if row.probe == "gradient_descent":
                results.arrays[CURVES + pair.key] = results.arrays[CURVES + row.key]
    first, second = tables(results)
    both = [f"images nearest to another class, {ipc} per class" for ipc in (1, 5)]
    assert [line[0] for line in first.body][2:] == [line[0] for line in second.body] == both
    assert f"On {'; '.join(both)} an untuned rule" in second.title
    (figure,) = figures(results).values()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[2:4] == [f"{both[0]}, 5 rows", f"{both[1]}, 25 rows"]


def test_the_figure_shows_every_curve_against_time(results):
    (figure,) = figures(results).values()
    agreement, difference = figure.axes
    curves = [line for line in agreement.lines if len(line.get_xdata()) == 2]
    assert len(curves) == 3 * 2  # contexts and learning rates
    assert sorted({x for line in curves for x in line.get_xdata()}) == pytest.approx([0.1, 1, 10])
    assert {line.get_ydata()[0] for line in curves} == {60, 80, 90}
    assert difference.get_yscale() == agreement.get_xscale() == "log"
    assert "(chance: 20)" in agreement.get_title("left")
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words[:4] == ["random images, 6 rows, 2 draws", "synthetic, 6 rows", "learning rate 0.1", "learning rate 1"]
    figure.canvas.draw()


def test_the_finding_is_about_the_synthetic_rows(results):
    said = finding(results)
    assert said.startswith("On synthetic rows gradient descent gives 90.0 [")
    assert said.endswith(
        "gives its own class to 98.0 %, and the probabilities of both lie 0.2000 apart in squared distance, TabICL's "
        "own 0.0100."
    )
    results.drop(list(results.rows.values()))
    assert finding(results) == ""
