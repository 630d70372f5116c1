from dataclasses import replace

import numpy as np
import pytest

from synthicl.core.statistics import holm, mean_accuracy, paired_difference, wilson
from synthicl.report.table import print_tables
from synthicl.studies.compare.show import (
    accuracy_table,
    calibration_table,
    comparison_table,
    figures,
    finding,
    seconds_table,
    tables,
)
from synthicl.studies.results import Results, Row

LABELS = np.zeros(200, dtype=np.int64)
ROW = Row("compare", "random", 0, 0, 1, "tabicl", "rotated16", "test", "", 0, 0.5, 10, 200, 0.1, 0.2, "train")


def right(count, shift=0):
    """Predictions that are right on ``count`` of 200 queries, from the ``shift``-th on."""
    return (np.roll(np.arange(200), shift) >= count).astype(np.int64)


@pytest.fixture
def results():
    results = Results(labels={"test": LABELS, "val": LABELS})

    def add(correct, shift=0, **values):
        results.add(replace(ROW, accuracy=correct / 200, **values), right(correct, shift))

    add(190, context="synthetic", checkpoint="best_on_val")
    add(188, context="synthetic", checkpoint="last")
    add(196, context="all", n_context=898)
    add(180, context="herding")  # a builder that came later
    for draw, correct in enumerate((120, 140, 160)):
        add(correct, context="random", draw=draw)
        add(correct + 2, context="random", draw=draw, probe="linear", preprocessing="")
    add(188, context="centroid")
    add(1, context="synthetic", checkpoint="last", split="val")
    return results


def test_accuracy_table(results):
    title, header, body = accuracy_table(results, "test")
    assert title == "Accuracy on test in %, 200 queries, 95 % intervals"
    assert header == ["context", "rows", "TabICL (16 rotated columns)", "logistic regression"]
    assert [row[0] for row in body] == [
        "random images (3 draws)",
        "nearest to class mean",
        "herding",
        "synthetic",
        "synthetic (best on val)",
        "all training images",
    ]
    assert body[5][1] == "898"
    low, high = (100 * bound for bound in wilson(196, 200)[1:])
    assert body[5][2:] == [f"98.0 [{low:.1f}, {high:.1f}]", ""]


def test_draws_stand_with_their_mean_interval_and_spread(results):
    correct = np.stack([right(count) == LABELS for count in (120, 140, 160)])
    low, high = (100 * bound for bound in mean_accuracy(correct)[1:])
    random = accuracy_table(results, "test")[2][0]
    assert random[2] == f"70.0 [{low:.1f}, {high:.1f}], each 60.0 to 80.0"
    assert random[3].endswith("each 61.0 to 81.0")


def test_comparisons_are_paired_signed_and_corrected(results):
    title, header, body = comparison_table(results, "test")
    assert title == "Points on test with TabICL (16 rotated columns), paired on the queries"
    assert header == ["difference", "points [95 % interval]", "p (Holm)"]
    rows = {row[0]: row[1:] for row in body}
    others = ("random images", "nearest to class mean", "herding", "all training images")
    assert list(rows) == [f"synthetic - {name}" for name in others]
    assert rows["synthetic - nearest to class mean"] == ["+0.0 [-1.7, +1.7]", "1.000"]
    assert rows["synthetic - all training images"][0].startswith("-4.0 [-")
    synthetic = (right(188) == LABELS)[None]
    others = [[120, 140, 160], [188], [180], [196]]
    p_values = holm(
        [
            paired_difference(synthetic, np.stack([right(count) == LABELS for count in counts])).p_value
            for counts in others
        ]
    )
    for text, p_value in zip((row[2] for row in body), p_values, strict=True):
        assert text == ("< 0.001" if p_value < 0.001 else f"{p_value:.3f}")


def test_rows_of_another_preprocessing_are_not_mixed_in(results):
    before = comparison_table(results, "test")
    for row in results.select(split="test", probe="tabicl"):
        results.add(replace(row, preprocessing="raw"), right(100))
    assert comparison_table(results, "test") == before  # the context set's own preprocessing, which was scored first


def test_another_number_of_images_per_class_stands_in_a_line_of_its_own(results):
    before = comparison_table(results, "test")
    results.add(replace(ROW, context="centroid", ipc=5, n_context=50), right(150))
    lines = [row[:3] for row in accuracy_table(results, "test").body if row[0].startswith("nearest")]
    assert [line[1] for line in lines] == ["10", "50"]
    assert [line[2][:4] for line in lines] == ["94.0", "75.0"]
    assert comparison_table(results, "test") == before  # of equal size alone


def test_print_tables(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # a narrow terminal cuts nothing off
    print_tables(tables(results))
    out = " ".join(capsys.readouterr().out.split())  # a title may go over two lines
    for title, header, body in tables(results):
        assert title in out
        for cell in [*header, *(cell for row in body for cell in row)]:
            assert cell in out


def test_the_best_random_draw_on_val_stands_beside_the_best_on_val(results):
    """Draw 1 is best on val, draw 2 on test: what val chose is shown."""
    for draw, correct in enumerate((100, 170, 130)):
        results.add(replace(ROW, draw=draw, split="val", accuracy=correct / 200), right(correct))
    body = accuracy_table(results, "test")[2]
    names = [row[0] for row in body]
    position = names.index("random images (best draw on val)")
    assert names[position - 1] == "synthetic (best on val)"
    assert body[position][2].startswith("70.0 [")
    assert "random images (best draw on val)" not in [row[0] for row in accuracy_table(results, "val")[2]]


def test_no_best_draw_of_a_split_that_was_scored_without_random_images(results):
    for draw, correct in enumerate((100, 170, 130)):
        results.add(replace(ROW, draw=draw, split="val", accuracy=correct / 200), right(correct))
    results.drop(results.select(split="test", context="random"))
    body = accuracy_table(results, "test")[2]
    assert [row[0] for row in body if "best" in row[0]] == ["synthetic (best on val)"]
    assert all(row[2] for row in body)


def test_draws_of_other_sizes_have_no_part_in_the_choice(results):
    for draw, correct in enumerate((100, 170, 130)):
        results.add(replace(ROW, draw=draw, split="val", accuracy=correct / 200), right(correct))
        other = replace(ROW, draw=draw, split="val", accuracy=1.0 if draw == 0 else 0.0, ipc=5)
        results.add(other, right(200 if draw == 0 else 0))
    (chosen,) = [row for row in accuracy_table(results, "test")[2] if row[0] == "random images (best draw on val)"]
    assert chosen[2].startswith("70.0 [")


def test_seconds_are_medians_over_draws(results):
    for draw, seconds in enumerate((1.0, 3.0, 8.0)):
        results.add(replace(ROW, draw=draw, fit_seconds=seconds, predict_seconds=2 * seconds), right(100))
    table = seconds_table(results, "test")
    assert table.title == "Seconds to fit + to predict 200 queries, under whatever else ran"
    assert table.body[0] == ["random images (3 draws)", "10", "3.00 + 6.00", "0.10 + 0.20"]


def test_what_a_context_took_stands_beside_it(results):
    """What was searched and what was distilled, in one column; what is chosen at once has no number."""
    assert "to make it" not in seconds_table(results, "test").header
    for draw in (0, 1):
        row = replace(ROW, context="swap_tabicl", draw=draw, measures={"selection_seconds": 20.0 + 10 * draw})
        results.add(row, right(100))
    synthetic = next(iter(results.select(context="synthetic", checkpoint="last", split="test")))
    results.add(replace(synthetic, measures={"selection_seconds": 31.26}), right(188))
    title, header, body = seconds_table(results, "test")
    assert header[:3] == ["context", "rows", "to make it"] and {len(line) for line in body} == {len(header)}
    took = {line[0]: line[2] for line in body}
    assert (took["images swapped for TabICL"], took["synthetic"], took["herding"]) == ("25.0", "31.3", "")
    assert title.endswith("Only seconds of one machine and load compare")


def test_a_dataset_alone_has_no_differences_to_name(results):
    for row in results.select(context="synthetic"):
        del results.rows[row.key]
    assert [table.title.split()[0] for table in tables(results)] == ["Accuracy", "Seconds"]


def test_spread_gives_way_to_more_probes(results):
    results.add(replace(ROW, context="centroid", probe="knn", preprocessing=""), right(100))
    assert "each" not in accuracy_table(results, "test").body[0][2]


def test_the_strip_plot_shows_every_context_and_draw(results):
    (figure,) = figures(results).values()
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.texts]
    assert names == [
        "all training images, 898 rows",
        "synthetic (best on val), 10 rows",
        "synthetic, 10 rows",
        "herding, 10 rows",
        "nearest to class mean, 10 rows",
        "random images (3 draws), 10 rows",
    ]
    assert "200 queries,\nTabICL (16 rotated columns)" in axes.get_xlabel()
    points = sorted(x for collection in axes.collections for x, y in collection.get_offsets() if round(y) == 5)
    assert points == pytest.approx([60, 70, 80])


def test_contexts_of_the_same_rows_are_one_line_and_one_comparison(results):
    for name in ("herding", "k_center", "centroid", "facility_location"):
        results.drop(results.select(context=name))
        same = "other" if name == "facility_location" else "same"
        results.add(replace(ROW, context=name, accuracy=0.94, fingerprint=same), right(188))
    names = [line[0] for line in accuracy_table(results, "test").body]
    assert names[1:3] == ["nearest to class mean = herding = k-center", "facility location"]
    differences = comparison_table(results, "test").body
    assert [line[0] for line in differences][1:3] == [f"synthetic - {name}" for name in names[1:3]]
    assert len(differences) == 4  # random, both, all
    for name, probe in (("centroid", "ridge"), ("k_center", "knn")):  # who was scored with another probe as well
        results.add(
            replace(ROW, context=name, probe=probe, preprocessing="", accuracy=0.5, fingerprint="same"), right(100)
        )
    body = accuracy_table(results, "test").body
    assert [line[0] for line in body] == names
    assert [cell[:4] for cell in body[1][2:]] == ["94.0", "", "50.0", "50.0"]


def test_calibration_of_rows_that_have_it(results):
    assert not calibration_table(results, "test").body and "reliability" not in figures(results)
    for row in results.select(split="test", probe="tabicl"):
        results.rows[row.key] = replace(row, measures={"brier": 0.5, "ece": 0.125})
        results.arrays[f"compare/confidence/{row.key}"] = np.full(200, 0.8, np.float32)
    table = next(
        table for table in tables(results) if table.title.startswith("Calibration of TabICL (16 rotated columns)")
    )
    assert len({len(line) for line in [table.header, *table.body]}) == 1
    assert table.body[0][:1] + table.body[0][2:] == [
        "random images (3 draws)",
        "70.0",
        "80.0",
        "0.500",
        "0.500",
        "12.5",
    ]
    figure = figures(results)["reliability"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[1:] == [
        "random images (3 draws), 10 rows: calibration error 12.5 %",
        "synthetic, 10 rows: calibration error 12.5 %",
        "all training images, 898 rows: calibration error 12.5 %",
    ]
    assert figure.get_label() == (
        "How often TabICL is right on test against how certain it is, a line for each of 3 contexts beside the "
        "diagonal on which both are equal. Calibration error: random images (3 draws) 12.5 %, synthetic 12.5 %, all "
        "training images 12.5 %."
    )


def test_the_finding_names_the_strongest_rival_and_what_is_not_told_apart(results):
    assert finding(results) == (
        "On test TabICL with the 10 synthetic images is right on 94.0 [89.8, 96.5] %: not told apart from nearest "
        "to class mean (+0.0 [-1.7, +1.7] points), the best of 3 other contexts of that size; "
        "4.0 [1.4, 7.7] points below all training images."
    )


def test_the_finding_names_the_probe_that_val_finds_best_on_all(results):
    for split, correct in (("val", 199), ("test", 197)):
        row = replace(ROW, context="all", probe="ridge", preprocessing="", split=split, accuracy=correct / 200)
        results.add(row, right(correct))
    assert finding(results).endswith(
        "4.0 [1.4, 7.7] points below all training images; 4.5 [1.8, 8.3] points below all training images with ridge, "
        "the best probe there on val."
    )
    assert comparison_table(results, "test").body[-1][:2] == [
        "synthetic - all training images with ridge",
        "-4.5 [-8.3, -1.8]",
    ]


def test_before_test_is_scored_everything_is_of_val(results):
    for row in results.select(split="test"):
        del results.rows[row.key]
        results.add(replace(row, split="val"), results.predictions[row.key])
    assert [table.title.split(" in ")[0].split(" with ")[0] for table in tables(results)][:2] == [
        "Accuracy on val",
        "Points on val",
    ]
    assert finding(results).startswith("On val ")
    (figure,) = figures(results).values()
    assert "accuracy on val" in figure.axes[0].get_xlabel()


def test_figures_say_what_is_to_be_seen(results):
    (figure,) = figures(results).values()
    assert figure.get_label() == (
        "A line for each of 6 contexts with TabICL's accuracy on test; furthest to the right: all training images, at "
        "98.0 %."
    )
