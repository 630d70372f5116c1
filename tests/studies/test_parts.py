"""Accuracy by class and by group, against sums by hand; what is shown of them; names that would do harm."""

import json
import warnings
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from synthicl.core.errors import UserError
from synthicl.core.settings import of_subject
from synthicl.core.statistics import wilson
from synthicl.data.images import LabelledImages
from synthicl.probes.nearest_class_mean import NearestClassMeanProbe
from synthicl.report.page import Section, render, write_report
from synthicl.report.table import percent_interval
from synthicl.studies.compare import show, show_parts
from synthicl.studies.compare.compute import compare
from synthicl.studies.compare.parts import (
    MIN_QUERIES,
    Parts,
    as_array,
    as_names,
    confusion,
    measure_parts,
    note_parts,
    parts_of,
)
from synthicl.studies.results import Results, Row
from synthicl.studies.subject import Subject

ROW = Row("compare", "synthetic", 0, 0, 1, "tabicl", "rotated16", "test", "last", 0, 0.5, 3, 40, 0.1, 0.2, "train")
TRUTH = np.repeat([0, 1, 2], [20, 12, 8])
SAID = np.concatenate([np.repeat([0, 1], [18, 2]), np.repeat([1, 0], [6, 6]), np.repeat([2, 1], [1, 7])])
NASTY = ["=1+1", "<b>x</b>|`y`", "$a$ ../../etc"]


def data_of(names=("a", "b", "c"), groups=None, train=(30, 20, 10)):
    """What ``note_parts`` is given: the names of classes, and labels and groups of splits."""
    labels = {"train": np.repeat(np.arange(len(train)), train), "test": TRUTH, "val": TRUTH}
    splits = {split: LabelledImages([], y, None if split == "train" else groups) for split, y in labels.items()}
    return SimpleNamespace(class_names=list(names), num_classes=len(names), splits=splits)


def results_of(said=SAID, truth=TRUTH, data=None, **values):
    results = Results(labels={"test": truth})
    accuracy = float((said == truth).mean())
    results.add(replace(ROW, accuracy=accuracy, n_query=len(truth), fingerprint="x", **values), said)
    note_parts(results, data or data_of(), ("val", "test"))
    return results


def test_accuracy_by_class_its_mean_and_the_worst():
    (classes,) = parts_of(results_of(), "test")
    correct = (SAID == TRUTH)[None]
    np.testing.assert_allclose(classes.accuracies(correct), [18 / 20, 6 / 12, 1 / 8])
    assert classes.accuracies(correct).mean() == pytest.approx(balanced_accuracy_score(TRUTH, SAID))
    # Eight images are few: class c comes last, though less of it is right.
    assert MIN_QUERIES == 10 and classes.from_worst(correct) == [1, 0, 2]


def test_accuracy_of_draws_is_their_mean():
    index = np.array([0, 0, 1])
    correct = np.array([[True, False, True], [True, True, False]])
    parts = Parts("group", "groups", ["x", "y", "empty"], index)
    np.testing.assert_array_equal(parts.accuracies(correct), [0.75, 0.5, np.nan])
    assert parts.from_worst(correct) == [1, 0]
    assert parts.from_worst(np.zeros((1, 3), bool)) == [0, 1]  # of equal ones the largest


def test_the_matrix_is_that_of_scikit_learn():
    results = results_of()
    (row,) = results.rows.values()
    np.testing.assert_allclose(confusion(results, [row], 3), confusion_matrix(TRUTH, SAID))


def test_tables_by_class():
    worst, detail, sizes = show_parts.tables(results_of(), "test")
    assert worst.body == [
        ["synthetic", "3", "62.5", percent(0.9 + 0.5 + 0.125), "b", percent_interval(wilson(6, 12)), "12"]
    ]
    assert [line[0] for line in detail.body] == ["b", "a", "c"]
    assert detail.body[2] == ["c", "8 (few)", percent_interval(wilson(1, 8)), "10", "b"]
    assert sizes.body == [
        ["train", "60", "a", "30", "c", "10", "3.0", "50.0"],
        ["test", "40", "a", "20", "c", "8", "2.5", "50.0"],
    ]
    assert sizes.title == (
        "Classes: the largest of test has 2.5 times the images of the smallest (train: 3.0). Who always names "
        "it is right on 50.0 %, as a mean over classes on 33.3 %"
    )


def percent(total):
    """The mean of three shares, in percent."""
    return f"{100 * total / 3:.1f}"


def test_the_worst_group_is_found_with_its_interval():
    groups = np.array(["shop", "home"])[(np.arange(40) % 4 == 0).astype(int)]  # home: every fourth
    results = results_of(data=data_of(groups=groups))
    tables = show_parts.tables(results, "test")
    right = {
        name: (int((SAID == TRUTH)[groups == name].sum()), int((groups == name).sum())) for name in ("shop", "home")
    }
    worst, detail = tables[-2:]
    names = sorted(right, key=lambda name: right[name][0] / right[name][1])
    assert worst.body[0][4:] == [names[0], percent_interval(wilson(*right[names[0]])), str(right[names[0]][1])]
    assert [line[0] for line in detail.body] == names
    assert show_parts.finding(results, "test") == (
        f" In the worst of 2 groups it is right on {percent_interval(wilson(*right[names[0]]))} % "
        f"({right[names[0]][1]} images)."
    )


def test_a_change_of_groups_is_shown_and_nothing_is_scored_again(image_folder, tmp_path, monkeypatch):
    root = image_folder({"cat": 10, "dog": 10})
    paths = sorted(path.relative_to(root) for path in root.rglob("*.png"))

    def found(groups):
        lines = [f"{path},{path.parent},{groups[number % 2]}" for number, path in enumerate(paths)]
        (root / "metadata.csv").write_text("\n".join(["file_name,label,group", *lines]))
        asked = {"data.root": str(root), "backbone.name": "mini", "tabicl.checkpoint": "mini"}
        _, settings = of_subject("folder", asked | {"tabicl.preprocessing": "raw"})
        subject = Subject(tmp_path, replace(settings, data=replace(settings.data, num_workers=0)))
        results = Results.load(tmp_path, subject.fingerprint)
        compare(subject, results, contexts=["all"], probes=["nearest_class_mean"])
        return results

    before = found(["x", "y"])
    assert parts_of(before, "test")[1].names == ["x", "y"]
    monkeypatch.setattr(NearestClassMeanProbe, "fit", None)  # it would be called
    after = found(["x", "=z"])
    assert parts_of(after, "test")[1].names == ["=z", "x"]
    assert parts_of(Results.load(tmp_path), "val")[1].names == ["=z", "x"]
    assert after.rows == before.rows
    named = {"mean_over_classes", "worst_class", "mean_over_groups", "worst_group"}
    for row in Results.load(tmp_path).rows.values():
        assert named <= row.measures.keys() and row.measures["worst_class"] <= row.accuracy


def test_results_json_has_accuracies_by_class_and_group(tmp_path):
    groups = np.array(["shop", "home"])[(np.arange(40) % 4 == 0).astype(int)]
    results = results_of(data=data_of(groups=groups), measures={"ece": 0.25})
    measure_parts(results, ("val", "test"))
    results.save(tmp_path)
    (row,) = json.loads((tmp_path / "results.json").read_text())
    right = SAID == TRUTH
    by_group = [right[groups == name].mean() for name in ("shop", "home")]
    assert row["measures"] == pytest.approx(
        {
            "ece": 0.25,
            "mean_over_classes": balanced_accuracy_score(TRUTH, SAID),
            "worst_class": 6 / 12,  # of those with ten images and more
            "mean_over_groups": np.mean(by_group),
            "worst_group": min(by_group),
        }
    )
    note_parts(results, data_of(), ("val", "test"))  # the groups have gone
    measure_parts(results, ("val", "test"))
    assert next(iter(results.rows.values())).measures.keys() == {"ece", "mean_over_classes", "worst_class"}


def test_a_table_of_many_classes_scrolls_in_its_own_place(tmp_path):
    for classes, long in ((81, True), (12, False)):
        table = show_parts.tables(many(classes), "test")[1]
        write_report(tmp_path, "x", [Section("x", [table], {}, [])], {}, tmp_path)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert page.count('<div class="wide long" tabindex="0"><table>') == long
        assert page.count("<tr>") == 1 + classes
        assert (tmp_path / "report.md").read_text(encoding="utf-8").count("\n| class ") == 1 + classes


def test_groups_that_have_gone_from_the_labels_go_from_the_results():
    results = results_of(data=data_of(groups=np.array(["x", "y"] * 20)))
    assert len(parts_of(results, "test")) == 2
    note_parts(results, data_of(), ("val", "test"))
    assert len(parts_of(results, "test")) == 1


def test_a_split_of_one_group_says_nothing_about_groups():
    results = results_of(data=data_of(groups=np.array(["x"] * 40)))
    assert [parts.kind for parts in parts_of(results, "test")] == ["class"]


def test_what_is_shown_survives_saving(tmp_path):
    results = results_of(data=data_of(names=["ä", "猫 🐈", "\ud800"], groups=np.array(["x", "y\0z"] * 20)))
    results.save(tmp_path)
    before, after = show_parts.tables(results, "test"), show_parts.tables(Results.load(tmp_path), "test")
    assert before == after
    assert parts_of(Results.load(tmp_path), "test")[1].names == ["x", "y\0z"]


def test_results_from_before_are_shown_without():
    results = results_of()
    results.arrays.clear()
    assert show_parts.tables(results, "test") == [] and show_parts.figures(results, "test") == {}


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("compare/names of classes", np.frombuffer(b"[" * 9, np.uint8)),
        ("compare/names of classes", np.frombuffer(b"[1, 2, 3]", np.uint8)),
        ("compare/names of classes", as_array(["a", "b"])),
        ("compare/names of classes", as_array(["a", "b", "c", "d"])),
        ("compare/training images of a class", np.zeros(2, np.int64)),
        ("compare/group of a query/test", np.zeros(3, np.int64)),
        ("compare/group of a query/test", np.full(40, 7)),
        ("compare/group of a query/test", np.full(40, -1)),
    ],
)
def test_arrays_of_somebody_else_that_lie(name, array):
    results = results_of(data=data_of(groups=np.array(["x", "y"] * 20)))
    results.arrays[name] = array
    with pytest.raises(UserError, match=r"^predictions\.safetensors: damaged \(.*\)\. Delete it and results\.json"):
        show_parts.tables(results, "test")


def many(classes=43):
    """A split of twelve images a class, of which every class but the first two is right on all."""
    truth = np.repeat(np.arange(classes), 12)
    said = truth.copy()
    said[:9], said[12:16] = 1, 0
    labels = {"train": truth, "test": truth, "val": truth}
    data = SimpleNamespace(
        class_names=[f"class {label}" for label in range(classes)],
        num_classes=classes,
        splits={split: LabelledImages([], y) for split, y in labels.items()},
    )
    return results_of(said, truth, data)


def test_many_classes_have_their_worst_their_pairs_and_an_order_by_likeness():
    results = many()
    _, detail, pairs, _ = show_parts.tables(results, "test")
    assert len(detail.body) == 43 and [line[0] for line in detail.body[:2]] == ["class 0", "class 1"]
    assert "all classes, the worst first" in detail.title
    some = show_parts.tables(results, "test", 10)[1]
    assert some.body == detail.body[:10] and "the 10 worst of 43 classes, the worst first" in some.title
    assert pairs.body == [["class 0", "class 1", "9", "75.0"], ["class 1", "class 0", "4", "33.3"]]
    counts = confusion(results, list(results.rows.values()), 43)
    order = show_parts.by_likeness(counts).tolist()
    assert sorted(order) == list(range(43))
    assert abs(order.index(0) - order.index(1)) == 1


@pytest.mark.parametrize("classes", [43, 100])
def test_the_matrix_of_many_classes_fits_a_telephone(classes):
    (figure,) = show_parts.figures(many(classes), "test").values()
    assert 72 * figure.get_figwidth() <= 390 - 32
    axes = figure.axes[0]
    names = axes.get_yticklabels()
    assert len(names) == classes and all(text.get_fontsize() >= 8 for text in names)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in names]
    assert all(abs(a.y0 - b.y0) >= 0.9 * a.height for a, b in pairwise(boxes))


def test_more_classes_than_can_be_read_have_no_matrix():
    assert show_parts.figures(many(show_parts.MOST + 1), "test") == {}


def test_names_are_shown_as_they_stand(tmp_path):
    groups = np.array([*NASTY, "\u202egnp\n.exe"])[np.arange(40) % 4]
    results = results_of(data=data_of(names=NASTY, groups=groups))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables, figures = show.tables(results), show_parts.figures(results, "test")
        write_report(tmp_path, "x", [Section("x", tables, figures, [], show.finding(results))], {}, tmp_path)
    page, text = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert "<b>x" not in page and "&lt;b&gt;x" in page
    assert "<b>x" not in text and r"\<b\>x\</b\>\|\`y\`" in text
    assert "\u202e" not in page + text and r"\\u202egnp\\n.exe" in text
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "figures"}


def test_a_name_in_a_script_that_the_font_lacks_is_drawn():
    results = results_of(data=data_of(names=["猫 🐈", "b", "c"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert render(show_parts.figures(results, "test")["confusion"], "png")


def test_names_are_kept_as_they_are():
    assert as_names(as_array(NASTY)) == NASTY
