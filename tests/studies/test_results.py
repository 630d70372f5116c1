import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from synthicl.core.errors import UserError
from synthicl.studies.results import KEY, Results, Row

ROW = Row(
    command="compare",
    context="random",
    draw=0,
    seed=0,
    ipc=1,
    probe="tabicl",
    preprocessing="rotated16",
    split="test",
    checkpoint="",
    accuracy=0.75,
    cross_entropy=0.5,
    n_context=2,
    n_query=4,
    fit_seconds=0.1,
    predict_seconds=0.2,
    statistics="train",
    backbone="mini",
    measures={"share": 0.5},
    run={"dataset": "Größe", "seed": 0},
    fingerprint="abc",
    made_by="python evaluate.py compare x",
)
LABELS = np.array([0, 1, 1, 0])
PREDICTIONS = np.array([0, 1, 1, 1])


@pytest.fixture
def results():
    results = Results(labels={"test": LABELS, "val": LABELS[:2]})
    results.add(ROW, PREDICTIONS)
    results.add(replace(ROW, draw=1, accuracy=0.25), 1 - PREDICTIONS)
    results.add(replace(ROW, split="val", n_query=2, accuracy=1.0), LABELS[:2])
    return results


def test_a_row_replaces_the_one_with_its_key(results):
    results.add(replace(ROW, accuracy=0.5, fit_seconds=9.0, run={}), LABELS[::-1])
    assert len(results.rows) == 3
    assert results.rows[ROW.key].accuracy == 0.5
    np.testing.assert_array_equal(results.predictions[ROW.key], LABELS[::-1])


@pytest.mark.parametrize("name", KEY)
def test_every_part_of_the_key_tells_rows_apart(results, name):
    results.add(replace(ROW, **{name: 7 if isinstance(getattr(ROW, name), int) else "other"}), PREDICTIONS)
    assert len(results.rows) == 4


def test_a_row_is_known_by_its_key_run_and_fingerprint(results):
    assert results.has(replace(ROW, accuracy=0.0, fit_seconds=9.0, made_by=""))
    for change in ({"draw": 5}, {"run": {}}, {"fingerprint": "abd"}):
        assert not results.has(replace(ROW, **change))


def test_results_of_another_subject_count_as_nothing(tmp_path, results):
    for row in list(results.rows.values()):
        results.rows[row.key] = replace(row, subject="images a")
    results.save(tmp_path)
    assert Results.load(tmp_path, "images a").rows == results.rows
    assert Results.load(tmp_path, "images b") == Results()
    assert len(Results.load(tmp_path).rows) == 3  # who only looks sees what is there


def test_drop_removes_what_belongs_to_a_row(results):
    results.add(replace(ROW, draw=9), PREDICTIONS, labels=LABELS)
    (row,) = results.select(draw=9)
    results.arrays = {f"compare/map/{row.key}": LABELS, f"compare/map/{ROW.key}": LABELS, "compare/axes": LABELS}
    results.drop([row])
    assert list(results.arrays) == [f"compare/map/{ROW.key}", "compare/axes"]
    assert not any(row.key in kept for kept in (results.rows, results.predictions, results.labels))
    assert len(results.rows) == 3


def test_rows_of_a_command(results):
    other = replace(ROW, command="scaling")
    results.add(other, PREDICTIONS)
    assert list(results.of("scaling").rows.values()) == [other]
    assert len(results.of("compare").rows) == 3


def test_a_row_may_have_queries_of_its_own(tmp_path, results):
    row = replace(ROW, command="few-shot", n_query=2)
    results.add(row, np.array([1, 0]), labels=np.array([1, 1]))
    results.arrays["boundary/x"] = np.arange(6.0).reshape(2, 3)
    results.save(tmp_path)
    loaded = Results.load(tmp_path)
    assert loaded.correct([row]).tolist() == [[True, False]]
    assert np.array_equal(loaded.arrays["boundary/x"], results.arrays["boundary/x"])


def test_select(results):
    assert results.select(split="test", draw=0) == [ROW]
    assert len(results.select(split="test")) == 2
    assert results.select(context="synthetic") == []


def test_load_gives_what_was_saved(tmp_path, results):
    results.save(tmp_path)
    loaded = Results.load(tmp_path)
    assert loaded.rows == results.rows
    for name in ("predictions", "labels"):
        ours, theirs = getattr(results, name), getattr(loaded, name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.safetensors", "results.json"]


def test_saving_again_after_loading_changes_nothing(tmp_path, results):
    results.save(tmp_path / "a")
    Results.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("results.json", "predictions.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_accuracy_follows_from_the_predictions(tmp_path, results):
    results.save(tmp_path)
    loaded = Results.load(tmp_path)
    for row in loaded.rows.values():
        assert loaded.correct([row]).mean() == row.accuracy
        assert loaded.correct([row]).shape == (1, row.n_query)


def test_nothing_there_is_empty(tmp_path):
    assert Results.load(tmp_path) == Results()


def test_json_is_what_other_programs_read(tmp_path, results):
    results.save(tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert rows[0] == asdict(ROW)


def test_columns_of_a_later_version_are_passed_over(tmp_path, results):
    results.save(tmp_path)
    path = tmp_path / "results.json"
    path.write_text(json.dumps([entry | {"carbon": 3} for entry in json.loads(path.read_text(encoding="utf-8"))]))
    assert Results.load(tmp_path).rows == results.rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", b""),
        ("results.json", b'[{"context": "random"'),
        ("results.json", b'[{"context": "random"}]'),
        ("results.json", b'{"a": 1}'),
        ("results.json", b"\xff\xfe"),
        ("predictions.safetensors", b""),
        ("predictions.safetensors", b"damaged beyond its header"),
        ("predictions.safetensors", None),
    ],
)
def test_message_for_damaged_files(tmp_path, results, name, content):
    results.save(tmp_path)
    path = tmp_path / name
    path.unlink() if content is None else path.write_bytes(content)
    message = r"results\.json, or predictions\.safetensors beside it: damaged \(.*\)\. Delete both and evaluate again"
    with pytest.raises(UserError, match=message):
        Results.load(tmp_path)
