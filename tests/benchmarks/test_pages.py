"""What the scripts of benchmarks/ write into their pages; what they measure is not run here."""

import json
from dataclasses import replace
from pathlib import Path

import columns
import extend
import numpy as np
import objectives
import pytest
import runs
import speed

from synthicl.data.datasets.groceries import EASY, HARD, TUNING
from synthicl.studies.results import Results, Row

DOCS = Path(__file__).parents[2] / "docs"
LABELS = np.zeros(100, dtype=np.int64)
ROW = Row("compare", "random", 0, 0, 1, "tabicl", "rotated16", "test", "", 0, 0.5, 10, 100, 0.1, 0.2, "train")
LGM = {"objective": "LinearGradientMatching(heads=32)"}


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([0.967], "96.7"),
        ([0.967, 0.967], "96.7"),
        ([0.96, 0.97], "96.5"),
        ([0.9, 0.9, 0.9], "90.0"),
        ([0.95, 0.96, 0.97], "96.0 [93.5, 98.5]"),
        ([0.9, 0.99, 0.99], "96.0 [83.1, 100.0]"),
    ],
)
def test_an_interval_needs_three_seeds_that_differ(values, written):
    assert runs.percent(values) == written


def test_a_share_of_time_is_a_ratio():
    assert extend.of_the_time([130.5], [124.2]) == "1.05 of the time"
    assert extend.of_the_time([6.2, 6.4], [10.0, 10.0]) == "0.63 of the time"
    assert extend.of_the_time([6.0, 6.3, 6.6], [10.0, 10.0, 10.0]) == "0.63 [0.56, 0.70] of the time"


@pytest.fixture
def results():
    """Two seeds of an objective beside real contexts; centroid and herding chose the same rows."""
    results = Results(labels={"test": LABELS})

    def add(correct, **values):
        found = (np.arange(100) >= correct).astype(np.int64)
        results.add(replace(ROW, accuracy=correct / 100, **values), found)

    for seed in (0, 1):
        for draw in (0, 1):
            add(60 + draw + seed, context="random", draw=draw, seed=seed, fingerprint=f"random {draw} {seed}")
        for name in ("centroid", "herding"):
            add(80 + seed, context=name, seed=seed, fingerprint=f"same {seed}")
        add(82 + seed, context="class_mean", seed=seed, fingerprint=f"mean {seed}")
        add(97, context="all", n_context=900, seed=seed, fingerprint=f"all {seed}")
        add(85 + 3 * seed, context="lgm", seed=seed, fingerprint=f"lgm {seed}", run=LGM)
    return results


NAMES = ["random images", "nearest to class mean = herding", "class means (no images)", "lgm: linear gradient matching"]


def test_builders_that_chose_the_same_rows_are_one_line_in_words(results):
    """Of one split the real contexts are there once."""
    results.drop([row for row in results.rows.values() if row.seed == 1 and row.context != "lgm"])
    accuracy, differences = objectives.tables(results, ["lgm"], 1)
    counts = [" (2)", "", "", " (2)"]
    assert [line[0] for line in accuracy.body] == [
        *(name + count for name, count in zip(NAMES, counts, strict=True)),
        "all training images",
    ]
    assert [line[0] for line in differences.body] == [f"lgm - {name}" for name in (*NAMES[1:3], "all training images")]


def test_they_are_one_line_over_splits_as_well(results):
    accuracy, differences = objectives.nested_tables(results, ["lgm"], 1)
    assert [line[0] for line in accuracy.body] == [*NAMES, "all training images"]
    assert [line[2] for line in accuracy.body] == ["61.0", "80.5", "82.5", "86.5", "97.0"]
    assert [line[0] for line in differences.body] == [f"lgm - {name}" for name in (*NAMES[1:3], "all training images")]
    assert "mean of 2 (split, seed) pairs" in accuracy.title


def test_what_differs_in_one_split_stays_two_lines(results):
    (row,) = results.select(context="herding", seed=1)
    results.rows[row.key] = replace(row, fingerprint="other")
    names = [line[0] for line in objectives.nested_tables(results, ["lgm"], 1)[0].body]
    assert names[1:4] == ["nearest to class mean", "herding", NAMES[2]]


def test_the_frontier_shows_what_both_sides_were_asked_about(results, tmp_path, monkeypatch):
    """All training images are shown to no other backbone, and random images have no linear probe here."""
    for row in list(results.rows.values()):
        if row.context != "random":
            worse = replace(row, probe="linear", preprocessing="", fingerprint=f"linear {row.fingerprint}")
            results.add(worse, np.maximum(results.predictions[row.key], LABELS + (np.arange(100) < 10)))
        if row.context != "all":
            elsewhere = replace(row, command="transfer", fingerprint=f"elsewhere {row.fingerprint}")
            results.add(elsewhere, results.predictions[row.key])
    drawn = []
    monkeypatch.setattr(objectives, "render", lambda figure, kind: drawn.append(figure) or b"")
    objectives.plot_frontier(results, ["lgm"], "mini_conv", tmp_path / "frontier.png", 1)
    by_probe, by_backbone = (axes.get_legend_handles_labels()[1] for axes in drawn[0].axes)
    assert by_probe == ["nearest to class mean = herding", "class means (no images)", "lgm", "all training images"]
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert sorted(legend) == sorted({*by_probe, *by_backbone})
    first = drawn[0].axes[0].get_lines()[0].get_xydata()  # of the centroid: TabICL across, the probe that is worse up
    assert first.tolist() == [pytest.approx([80.5, 70.5])]
    assert by_backbone == ["random images", "nearest to class mean = herding", "class means (no images)", "lgm"]


def test_tasks_that_choose_columns_share_no_class_with_what_is_reported(tmp_path):
    """23 classes are left, three of which have too few images of test."""
    left = [f"Fruit {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVW"]
    names = [*left, *EASY, *HARD, *TUNING]
    header = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"
    table = [f"{name},{number},{name},{number}" for number, name in enumerate(names)]
    (tmp_path / "classes.csv").write_text("\n".join([header, *table]))
    for split, count in (("train", 14), ("val", 1), ("test", 15)):
        counts = [count - (split == "test" and name in left[:3]) for name in names]
        lines = [f"{split}/{n}_{i}.jpg, {n}, {n}" for n, count in enumerate(counts) for i in range(count)]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    first, *drawn = columns.tasks(tmp_path, 3)
    assert first == list(TUNING) and [len(chosen) for chosen in drawn] == [10, 10]
    assert sorted(drawn[0] + drawn[1]) == left[3:]
    with pytest.raises(SystemExit, match="--tasks=4: the classes left are enough for 3"):
        columns.tasks(tmp_path, 4)


def test_a_remark_stands_below_what_made_its_section():
    found = json.loads((DOCS / "speed.json").read_text(encoding="utf-8"))
    assert speed.page(found, "speed").count("\n\nOther jobs ran.\n\n") == 0
    found["step"]["remark"] = "Other jobs ran."
    page = speed.page(found, "speed")
    made = f"Made by `{found['step']['command']}`, {found['step']['machine']}."
    assert page.count("Other jobs ran.") == 1 and f"{made}\n\nOther jobs ran.\n\n## Peak memory" in page
