import csv
import errno
import io
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import synthicl.artefact.predict as predict_module
import synthicl.data.transforms as transforms
from synthicl.artefact.classifier import InContextClassifier
from synthicl.artefact.context_set import ContextSet
from synthicl.artefact.predict import find_images, predict
from synthicl.backbones import backbone_spec, create_backbone
from synthicl.cli.main import main
from synthicl.core.errors import UserError
from synthicl.data.datasets.digits import load
from synthicl.data.images import LabelledImages
from synthicl.embeddings.bank import embed_views
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.calibrated import calibrate
from synthicl.probes.calibration import tempered
from synthicl.probes.novelty import fit_novelty
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing

NAMES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    """A folder with subfolders of real digits as PNGs, the first digits of the test split."""
    folder = tmp_path_factory.mktemp("queries")
    for number, image in enumerate(load(None).splits["test"].images[:30]):
        path = folder / f"{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="module")
def context_set():
    train = load(None).splits["train"]
    rows = np.concatenate([np.flatnonzero(train.labels == label)[:2] for label in range(10)])
    backbone = create_backbone("mini")
    metadata = {
        "backbone": "mini",
        "backbone_weights": backbone.fingerprint,
        "crop_size": 32,
        "tabicl_checkpoint": "mini",
        "dataset": "digits",
    }
    preprocessing = fit_preprocessing("rotated16", embed_views(backbone, train, 32)[0], 2)
    part = train.take(rows)
    z = embed_views(backbone, part, 32)[0]
    return ContextSet(z, torch.from_numpy(part.labels), NAMES, preprocessing, metadata=metadata)


@pytest.fixture(scope="module")
def run(tmp_path_factory, context_set):
    folder = tmp_path_factory.mktemp("run")
    context_set.save(folder)
    return folder


def read(path):
    """Rows of a CSV as dicts."""
    with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def probabilities(rows):
    return np.array([[float(row[name]) for name in NAMES] for row in rows])


def listing(folder, *names):
    path = folder / "list.txt"
    path.write_text("\n".join(map(str, names)), encoding="utf-8")
    return path


def test_predictions_are_those_of_the_probe_of_the_run(tmp_path, run, context_set, queries, capsys):
    output = predict(run, queries, tmp_path / "out" / "table.csv")
    assert output == tmp_path / "out" / "table.csv"
    rows = read(output)
    paths = sorted(queries.rglob("*.png"))
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert list(rows[0]) == ["path", "prediction", "error", *NAMES]
    probe = TabICLProbe(Deployment(context_set.preprocessing, "mini", MINI))
    probe.fit(context_set.rows)
    z = embed_views(create_backbone("mini"), LabelledImages(paths, np.zeros(len(paths))), 32)[0]
    expected = probe.predict_proba(z)
    np.testing.assert_allclose(probabilities(rows), expected, atol=1e-6)
    assert [row["prediction"] for row in rows] == [NAMES[label] for label in expected.argmax(1)]
    truth = load(None).splits["test"].labels
    assert np.mean([int(row["prediction"]) == truth[int(Path(row["path"]).stem)] for row in rows]) > 0.7
    assert {row["error"] for row in rows} == {""}
    assert f"30 of 30 images classified: {output}" in capsys.readouterr().out


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, context_set):
    """The folder of a context set that val calibrated."""
    splits, backbone = load(None).splits, create_backbone("mini")
    train, val = (
        LabelledEmbeddings(embed_views(backbone, splits[s], 32)[0], torch.from_numpy(splits[s].labels))
        for s in ("train", "val")
    )
    probe = TabICLProbe(Deployment(context_set.preprocessing, "mini", MINI))
    probe.fit(context_set.rows)
    folder = tmp_path_factory.mktemp("calibrated")
    replace(context_set, calibration=calibrate(probe, np.arange(10), val, fit_novelty(train.z))).save(folder)
    return folder


def test_sets_and_novelty_stand_before_the_probabilities(tmp_path, run, calibrated, queries, capsys):
    folder = tmp_path / "images"
    shutil.copytree(queries, folder)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    (folder / "torn.png").write_bytes(b"torn")
    rows = read(predict(calibrated, folder, tmp_path / "a.csv", coverage=0.95, reject=0.95))
    assert list(rows[0]) == ["path", "prediction", "error", "set", "novel", "novelty", *NAMES]
    kept = ContextSet.load(calibrated).calibration
    assert f"at temperature {kept.temperature:.2f}, from 359 images of val" in capsys.readouterr().out
    (torn,) = [row for row in rows if row["error"]]
    assert (torn["set"], torn["novel"], torn["novelty"]) == ("", "", "")
    whole = [row for row in rows if not row["error"]]
    found, most = kept.sets(probabilities(whole).astype(np.float32), 0.95), kept.most_novel(0.95)
    for row, chosen in zip(whole, found, strict=True):
        names = row["set"].strip("{}").split("/")
        assert names[0] == row["prediction"] and set(names) == {NAMES[label] for label in np.flatnonzero(chosen)}
        assert row["novel"] == ("yes" if float(row["novelty"]) > most else "no")
    assert found.sum(1).max() > 1
    assert next(row["novel"] for row in rows if row["path"].endswith("noise.png")) == "yes"
    truth = load(None).splits["test"].labels
    digits = [row for row in whole if not row["path"].endswith("noise.png")]
    assert (
        np.mean([str(truth[int(Path(row["path"]).stem)]) in row["set"].strip("{}").split("/") for row in digits]) > 0.85
    )
    assert np.mean([row["novel"] == "no" for row in digits]) > 0.8


def test_the_temperature_of_val_is_that_of_the_table_and_of_the_classifier(tmp_path, run, calibrated, queries):
    raw, found = (read(predict(folder, queries, tmp_path / "a.csv")) for folder in (run, calibrated))
    classifier = InContextClassifier.from_context_set(calibrated)
    assert InContextClassifier.from_context_set(run).temperature_ == 1 != classifier.temperature_
    expected = tempered(probabilities(raw), classifier.temperature_)
    np.testing.assert_allclose(probabilities(found), expected, atol=1e-5)
    np.testing.assert_allclose(classifier.predict_proba_images(sorted(queries.rglob("*.png"))), expected, atol=1e-5)
    assert [row["prediction"] for row in found] == [row["prediction"] for row in raw]
    classifier.save(tmp_path / "again")
    assert InContextClassifier.load(tmp_path / "again").temperature_ == classifier.temperature_


def test_a_coverage_that_val_is_too_small_for_is_said(tmp_path, calibrated, queries, capsys):
    rows = read(predict(calibrated, queries, tmp_path / "a.csv", coverage=0.999, reject=0.999))
    assert {len(row["set"].split("/")) for row in rows} == {10} and {row["novel"] for row in rows} == {"no"}
    out = capsys.readouterr().out
    assert "--coverage=0.999: needs more than these 359, so every class is in every set; up to 0.997 can be had" in out
    assert "--reject=0.999: needs more than these 359, so no image is marked as novel" in out


def test_flags_about_doubt_may_stand_alone(tmp_path, calibrated, queries, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    expected = read(predict(calibrated, queries / "0", tmp_path / "a.csv", coverage=0.95, reject=0.95))
    assert main(["predict", str(calibrated), "--reject", str(queries / "0"), "--coverage"]) == 0
    assert read("predictions.csv") == expected
    assert main(["predict", str(calibrated), str(queries / "0"), "--reject=0.9"]) == 0
    assert list(read("predictions.csv")[0]) == ["path", "prediction", "error", "novel", "novelty", *NAMES]


@pytest.mark.parametrize("flag", ["coverage", "reject"])
def test_messages_about_doubt(tmp_path, run, calibrated, queries, flag):
    with pytest.raises(UserError, match=rf"--{flag}=0.9: {run} keeps nothing of val to judge by.*Leave the flag out"):
        predict(run, queries, tmp_path / "a.csv", **{flag: 0.9})
    for value in (0, 1, -0.5, float("nan")):
        with pytest.raises(UserError, match=rf"--{flag}={value}: must lie between 0 and 1, for example --{flag}=0.95"):
            predict(calibrated, queries, tmp_path / "a.csv", **{flag: value})
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_neither_order_nor_batches_matter(tmp_path, run, queries, batch_size):
    expected = {row["path"]: row for row in read(predict(run, queries, tmp_path / "a.csv"))}
    shuffled = [list(expected)[index] for index in np.random.default_rng(0).permutation(len(expected))]
    rows = read(predict(run, listing(tmp_path, *shuffled), tmp_path / "b.csv", batch_size=batch_size))
    assert [row["path"] for row in rows] == shuffled
    again = [expected[path] for path in shuffled]
    np.testing.assert_allclose(probabilities(rows), probabilities(again), atol=1e-5)
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in again]


def test_the_table_goes_to_the_current_directory(tmp_path, monkeypatch, run, queries):
    monkeypatch.chdir(tmp_path)
    before = sorted(run.rglob("*"))
    assert predict(run, queries / "0" / "000.png") == Path("predictions.csv")
    assert [row["path"] for row in read("predictions.csv")] == [str(queries / "0" / "000.png")]
    assert sorted(run.rglob("*")) == before


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=100, subsampling=0, **options)
    return buffer.getvalue()


@pytest.fixture
def digit():
    """A digit, 32 x 32."""
    return Image.fromarray(load(None).splits["test"].images[3])


def save_16_bit(digit, path):
    Image.fromarray(np.asarray(digit).astype(np.uint16) * 257).save(path.with_suffix(".png"))


def save_palette(digit, path):
    """Ink as a palette, its paper (white once it is laid on white) transparent."""
    palette = Image.fromarray(255 - np.asarray(digit)).convert("P")
    palette.save(path.with_suffix(".png"), transparency=255)


def save_cmyk(digit, path):
    path.with_suffix(".jpg").write_bytes(jpeg(digit.convert("RGB").convert("CMYK")))


def save_rotated(digit, path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 270 degrees
    digit.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".png"), exif=exif)


@pytest.mark.parametrize("save", [save_16_bit, save_palette, save_cmyk, save_rotated])
def test_unusual_files_are_read_as_what_they_show(tmp_path, run, digit, save):
    plain = Image.fromarray(255 - np.asarray(digit)) if save is save_palette else digit
    plain.save(tmp_path / "plain.png")
    save(digit, tmp_path / "unusual")
    rows = read(predict(run, tmp_path, tmp_path / "out.csv"))
    assert [Path(row["path"]).stem for row in rows] == ["plain", "unusual"]
    assert [row["error"] for row in rows] == ["", ""]
    np.testing.assert_allclose(*probabilities(rows), atol=0.02 if save is save_cmyk else 1e-6)


def truncated_jpeg(digit):
    content = jpeg(digit.convert("RGB"))
    return content[: len(content) // 2]


def broken_png(digit):
    buffer = io.BytesIO()
    digit.save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[content.index(b"IDAT") + 6] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.png", lambda digit: b""),
        ("text.png", lambda digit: b"hello"),
        ("truncated.jpg", truncated_jpeg),
        ("broken.png", broken_png),
    ],
)
def test_a_file_that_cannot_be_read_gets_a_row_that_says_so(tmp_path, run, digit, name, content, capsys):
    digit.save(tmp_path / "a.png")
    digit.save(tmp_path / "z.png")
    (tmp_path / name).write_bytes(content(digit))
    good, bad, last = read(predict(run, tmp_path, tmp_path / "out.csv", batch_size=2))
    assert (bad["path"], bad["prediction"]) == (str(tmp_path / name), "")
    assert f"{name}: not a readable image (" in bad["error"]
    assert {bad[column] for column in NAMES} == {""}
    np.testing.assert_allclose(*probabilities([good, last]), atol=1e-6)
    out = capsys.readouterr().out
    assert "2 of 3 images classified" in out
    assert f"1 could not be read (column error), for example\n  {tmp_path / name}: not a readable image" in out


def test_what_no_plugin_promises_stops_nothing(tmp_path, run, digit, monkeypatch):
    def read_image(path):
        if path.name == "b.png":
            raise zlib.error("incorrect header check")
        return Image.open(path).convert("RGB")

    monkeypatch.setattr(transforms, "read_image", read_image)
    for name in "abc":
        digit.save(tmp_path / f"{name}.png")
    errors = [row["error"] for row in read(predict(run, tmp_path, tmp_path / "out.csv"))]
    assert errors == ["", "not a readable image (error: incorrect header check)", ""]


def test_only_the_first_unreadable_are_named(tmp_path, run, digit, capsys):
    digit.save(tmp_path / "z.png")
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"")
    predict(run, tmp_path, tmp_path / "out.csv", batch_size=2)
    out = capsys.readouterr().out
    assert "5 could not be read" in out
    assert ("2.png" in out, "3.png" in out) == (True, False)


def test_names_come_back_from_the_table(tmp_path, run, digit):
    names = [
        "a,b.png",
        'quo"te.png',
        "new\nline.png",
        "Löwe 猫.png",
        "=1+1.png",
        " space.png",
        os.fsdecode(b"\xff.png"),
    ]
    for name in names:
        digit.save(tmp_path / name)
    (tmp_path / os.fsdecode(b"\xfe.png")).write_bytes(b"")  # neither the table nor what is printed minds its name
    rows = read(predict(run, tmp_path, tmp_path / "out.csv"))
    assert {Path(row["path"]).name for row in rows} == {*names, os.fsdecode(b"\xfe.png")}
    assert [row["path"] for row in rows] == [str(path) for path in sorted(tmp_path.glob("*.png"))]


def test_a_list_is_relative_to_its_file(tmp_path, run, queries, digit):
    (tmp_path / "here").mkdir()
    digit.save(tmp_path / "here" / "x y.png")
    absolute = queries / "0" / "000.png"
    path = tmp_path / "list.txt"
    path.write_text(f"\ufeffhere/x y.png\r\n\r\n{absolute}\ngone.png\nhere\n", encoding="utf-8")
    rows = read(predict(run, path, tmp_path / "out.csv"))
    assert [row["path"] for row in rows] == ["here/x y.png", str(absolute), "gone.png", "here"]
    assert [bool(row["error"]) for row in rows] == [False, False, True, True]
    assert "gone.png: not a readable image ([Errno 2] No such file" in rows[2]["error"]


def test_a_folder_is_searched_for_images_only(tmp_path, digit):
    wanted = ["B.JPG", "a.png", "sub/deeper/c.webp"]
    for name in [*wanted, ".hidden/x.png", "sub/._c.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        digit.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == [(str(tmp_path / name), tmp_path / name) for name in wanted]


@pytest.mark.parametrize("folder", ["", "best_on_val"])
def test_files_of_the_run_are_found_again(tmp_path, context_set, digit, folder):
    """A run made with files of one's own says in config.yaml where they lay; flags win, and are asked for when gone."""
    own = tmp_path / "own.ckpt"
    own.write_bytes(MINI.read_bytes())
    metadata = context_set.metadata | {"tabicl_checkpoint": "own.ckpt"}
    context = ContextSet(
        context_set.embeddings, context_set.labels, NAMES, context_set.preprocessing, metadata=metadata
    )
    context.save(tmp_path / "run" / folder)
    (tmp_path / "run" / "config.yaml").write_text(
        f"data:\n  name: digits\nbackbone:\n  name: mini\n  weights: null\ntabicl:\n  model_path: {own}\n"
    )
    digit.save(tmp_path / "x.png")
    output = tmp_path / "out.csv"
    assert read(predict(tmp_path / "run" / folder, tmp_path / "x.png", output))[0]["prediction"]
    own.unlink()
    with pytest.raises(UserError, match=r"checkpoint file own\.ckpt\. Supply it with --tabicl\.model_path=PATH\."):
        predict(tmp_path / "run" / folder, tmp_path / "x.png", output)
    assert read(predict(tmp_path / "run" / folder, tmp_path / "x.png", output, model_path=str(MINI)))[0]["prediction"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone", None, r"gone: no such file or folder\. Name a folder of images, an image, or a list of paths\."),
        ("list.txt", b"\n \r\n", r"list\.txt: no images listed there\. Write one path per line\."),
        ("photo.heic", b"\xff\xfe\x00", r"photo\.heic: neither an image \(\.bmp, .*\) nor a text file with one path"),
        ("list.txt", b"x.png\ny.png", r"list\.txt: no image could be read, of 2\. The first: .*x\.png: not a readable"),
        ("x.png", b"", r"x\.png: no image could be read, of 1\. The first: .*x\.png: not a readable image"),
    ],
)
def test_messages_about_images(tmp_path, run, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        predict(run, tmp_path / name, tmp_path / "out.csv")
    assert sorted(tmp_path.iterdir()) == before


def test_message_for_a_folder_without_images(tmp_path, run):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"no images there \(\.bmp, .*\)\. Name a folder that holds some\."):
        predict(run, tmp_path, tmp_path / "out.csv")


def test_messages_about_everything_else(tmp_path, run, queries):
    with pytest.raises(UserError, match=r"no context set there \(looked for context\.safetensors\)"):
        predict(tmp_path, queries)
    with pytest.raises(UserError, match=r"--batch_size=0: must be at least 1\."):
        predict(run, queries, batch_size=0)
    with pytest.raises(UserError, match=r"--output=.*: is a folder\. Name a file, for example .*predictions\.csv"):
        predict(run, queries, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out\.csv: cannot be written \(.*\)\. Choose another folder"):
        predict(run, queries, tmp_path / "file" / "out.csv")
    content = bytearray(backbone_spec("mini").weights.find().read_bytes())
    content[-1] ^= 1
    other = tmp_path / "mini.safetensors"
    other.write_bytes(content)
    with pytest.raises(UserError, match=r"--backbone\.weights: these weights of mini .* Supply that file with"):
        predict(run, queries, tmp_path / "out.csv", backbone_weights=str(other))


def test_the_table_is_written_whole_or_not_at_all(tmp_path, run, queries, monkeypatch):
    """Whatever stops it half-way, the old table stays and nothing else."""
    output = tmp_path / "out.csv"
    output.write_text("old")
    embed = predict_module.embed_squares
    batches = []

    def stop(error):
        def interrupted(backbone, squares):
            batches.append(len(squares))
            if len(batches) > 1:
                raise error
            return embed(backbone, squares)

        return interrupted

    for error, raised in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "full"), UserError)):
        batches.clear()
        monkeypatch.setattr(predict_module, "embed_squares", stop(error))
        with pytest.raises(raised):
            predict(run, queries, output, batch_size=4)
        assert batches == [4, 4]
        assert output.read_text() == "old"
        assert list(tmp_path.iterdir()) == [output]


def test_a_context_set_on_the_hub_is_one_too(tmp_path, monkeypatch, run, queries, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("synthicl.core.hub.fetched", lambda repo: {"user/name": run}[repo])
    assert main(["predict", "user/name", str(queries / "0")]) == 0
    assert "10 of 10 images classified: predictions.csv" in capsys.readouterr().out
    expected = read(predict(run, queries / "0", tmp_path / "local.csv"))
    assert read("predictions.csv") == expected
    assert InContextClassifier.from_context_set("user/name").classes_.tolist() == NAMES
