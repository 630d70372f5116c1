"""Files and artefacts that nobody should have: each is refused with one line, and nothing on disk changes.

A row of a table is a function that makes something bad in a folder and returns what reads it: the words of a command
line, or a callable; beside it stands what is said.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import socket
import struct
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from synthicl.artefact.card import card
from synthicl.artefact.classifier import InContextClassifier
from synthicl.artefact.context_set import ContextSet
from synthicl.artefact.schema import contents
from synthicl.backbones import backbone_spec, create_backbone
from synthicl.backbones.models.dinov2 import build as build_dinov2
from synthicl.backbones.models.dinov2 import load as load_dinov2
from synthicl.cli.main import main
from synthicl.core.context_header import checksum
from synthicl.core.errors import UserError
from synthicl.core.files import kind_of
from synthicl.data.archives import unpack
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.images import LabelledImages, read_image
from synthicl.embeddings.bank import embed_views
from synthicl.tabicl.checkpoint import MINI, check_checkpoint, find_checkpoint
from synthicl.tabicl.preprocessing import Preprocessing, fit_preprocessing

DAMAGED = r"context\.safetensors: not a context set, or damaged \("
AGAIN = r"\)\. Run the distillation again\.$"
NAMES = ["cat", "dog"]
N, D, K = 4, 128, 3  # rows; the bundled backbone's length of an embedding; columns after the reduction
NAN, INFINITE = float("nan"), float("inf")
property_test = partial(
    settings,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Path:
    """A sound context set in a folder."""
    folder = tmp_path_factory.mktemp("sound")
    generator = torch.Generator().manual_seed(0)
    ContextSet(
        embeddings=torch.randn(N, D, generator=generator),
        labels=torch.tensor([0, 1, 0, 1]),
        class_names=NAMES,
        preprocessing=fit_preprocessing(f"pca{K}", torch.randn(8, D, generator=generator), 1),
        images=torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8, generator=generator),
        metadata={
            "dataset": "digits",
            "backbone": "mini",
            "backbone_weights": create_backbone("mini").fingerprint,
            "crop_size": 32,
            "tabicl_checkpoint": "mini",
            "versions": {"synthicl": "9.8.7"},
        },
        soft_labels=torch.tensor([[0.9, 0.1], [0.2, 0.8]] * 2),
    ).save(folder)
    return folder


@pytest.fixture
def run(sound, tmp_path) -> Path:
    """A copy of it, to be spoilt."""
    (tmp_path / "run").mkdir()
    shutil.copy(sound / "context.safetensors", tmp_path / "run")
    return tmp_path / "run"


def listing(folder: Path) -> dict[str, str]:
    """What lies in a folder, with hashes of plain files."""
    return {
        ascii(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if kind_of(path) == "a file"
        else kind_of(path)
        for path in folder.rglob("*")
    }


def refusal(what, capsys) -> str:
    """What a command line or a callable says when it refuses; a traceback fails the test."""
    if callable(what):
        with pytest.raises(UserError) as caught:
            what()
        return str(caught.value)
    capsys.readouterr()
    assert main([str(word) for word in what]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    return said.removeprefix("error: ")


@pytest.fixture
def refuses(tmp_path, capsys, monkeypatch):
    """Check that a row is refused as its table says."""
    monkeypatch.chdir(tmp_path)

    def check(make: Callable[..., object], message: str, *args: object) -> None:
        what = make(*args)
        before = listing(tmp_path)
        said = refusal(what, capsys)
        assert re.search(message, said), said
        assert "\n" not in said
        assert "\x1b" not in said
        assert listing(tmp_path) == before

    return check


def table(rows: list[tuple[str, object, str]]) -> pytest.MarkDecorator:
    """Rows as parameters, by their names."""
    assert len({name for name, *_ in rows}) == len(rows)
    return pytest.mark.parametrize(("make", "message"), [pytest.param(*rest, id=name) for name, *rest in rows])


# --------------------------------------------------------------------------------------------------- context sets


def rewrite(run: Path, tensors=(), truthful=True, **header: str | None) -> None:
    """Replace parts of a saved set, None for nothing there; ``truthful`` writes a checksum that fits."""
    path = run / "context.safetensors"
    with safe_open(path, "pt") as file:
        written = file.metadata()
    written = {name: value for name, value in (written | header).items() if value is not None}
    changed = {name: tensor for name, tensor in (load_file(path) | dict(tensors)).items() if tensor is not None}
    if truthful and "checksum" in written and "checksum" not in header:
        written["checksum"] = checksum(written, contents(changed))
    save_file(changed, path, written)


def tensor(name: str, change):
    """A row that replaces a tensor by a function of it."""

    def make(run):
        value = None if change is None else change(load_file(run / "context.safetensors").get(name))
        rewrite(run, {name: value})
        return lambda: ContextSet.load(run)

    return make


def at(*place: int, value: float):
    """A tensor with another number at some place."""

    def change(old):
        old[place] = value
        return old

    return change


def header(**changes: object):
    """A row that replaces keys of the header; a text as it is, anything else as JSON."""

    def make(run):
        texts = {name: value if isinstance(value, str | None) else json.dumps(value) for name, value in changes.items()}
        rewrite(run, **texts)
        return lambda: ContextSet.load(run)

    return make


def about(**changes: object):
    """A row that replaces values of the metadata."""

    def make(run):
        with safe_open(run / "context.safetensors", "pt") as file:
            metadata = json.loads(file.metadata()["metadata"])
        rewrite(run, metadata=json.dumps(metadata | changes))
        return lambda: ContextSet.load(run)

    return make


def members(value: object, name: str = f"pca{K}"):
    return header(preprocessing={"name": name, "n_estimators": value})


def content(change):
    """A row that replaces the file's bytes."""

    def make(run):
        path = run / "context.safetensors"
        path.write_bytes(change(path.read_bytes()))
        return lambda: ContextSet.load(run)

    return make


def special(kind: str):
    """A row with something else in the file's place."""

    def make(run):
        path = run / "context.safetensors"
        path.unlink()
        put(kind, path)
        return lambda: ContextSet.load(run)

    return make


def put(kind: str, path: Path) -> Path:
    """Something that is not a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)
    return path


MEMBERS = r"n_estimators=.*: must be a whole number from 1 to 10000"
CONTEXT_SETS = [
    ("embeddings NaN", tensor("embeddings", at(0, 0, value=NAN)), "embeddings holds NaN or infinite numbers"),
    ("embeddings infinite", tensor("embeddings", at(1, 2, value=-INFINITE)), "embeddings holds NaN or infinite"),
    (
        "embeddings integer",
        tensor("embeddings", torch.Tensor.long),
        "embeddings is of type torch.int64, not torch.float",
    ),
    ("embeddings half", tensor("embeddings", torch.Tensor.half), "embeddings is of type torch.float16"),
    ("embeddings double", tensor("embeddings", torch.Tensor.double), "embeddings is of type torch.float64"),
    (
        "embeddings complex",
        tensor("embeddings", lambda z: z.to(torch.complex64)),
        "embeddings is of type torch.complex64",
    ),
    ("embeddings bool", tensor("embeddings", torch.Tensor.bool), "embeddings is of type torch.bool"),
    ("embeddings bfloat", tensor("embeddings", torch.Tensor.bfloat16), "embeddings is of type torch.bfloat16"),
    ("embeddings missing", tensor("embeddings", None), "embeddings is missing"),
    ("embeddings flat", tensor("embeddings", torch.Tensor.flatten), r"embeddings has shape \(512,\), not \(n, D\)"),
    ("embeddings deep", tensor("embeddings", lambda z: z[None].clone()), r"embeddings has shape \(1, 4, 128\)"),
    ("embeddings scalar", tensor("embeddings", lambda z: torch.tensor(1.0)), r"embeddings has shape \(\)"),
    ("embeddings none", tensor("embeddings", lambda z: z[:0].clone()), r"embeddings has shape \(0, 128\)"),
    ("embeddings no columns", tensor("embeddings", lambda z: z[:, :0].clone()), r"embeddings has shape \(4, 0\)"),
    ("embeddings fewer rows", tensor("embeddings", lambda z: z[:3].clone()), r"labels has shape \(4,\), not \(n=3\)"),
    ("embeddings shorter", tensor("embeddings", lambda z: z[:, :9].clone()), r"mean has shape \(128,\), not \(D=9\)"),
    ("labels missing", tensor("labels", None), "labels is missing"),
    ("labels negative", tensor("labels", at(0, value=-1)), "labels go from -1 to 1, and there are 2 classes"),
    ("labels too large", tensor("labels", at(3, value=2)), "labels go from 0 to 2, and there are 2 classes"),
    ("labels huge", tensor("labels", at(3, value=2**62)), "labels go from 0 to 4611686018427387904"),
    ("labels float", tensor("labels", torch.Tensor.float), "labels is of type torch.float32, not torch.int64"),
    ("labels short", tensor("labels", torch.Tensor.int), "labels is of type torch.int32"),
    ("labels bool", tensor("labels", torch.Tensor.bool), "labels is of type torch.bool"),
    ("labels one-hot", tensor("labels", lambda y: torch.eye(2).long()[y]), r"labels has shape \(4, 2\), not \(n=4\)"),
    ("labels one more", tensor("labels", lambda y: torch.cat([y, y[:1]])), r"labels has shape \(5,\), not \(n=4\)"),
    ("images float", tensor("images", lambda x: x / 255), "images is of type torch.float32, not torch.uint8"),
    ("images int8", tensor("images", lambda x: x.to(torch.int8)), "images is of type torch.int8"),
    ("images not square", tensor("images", lambda x: x[..., :7].clone()), r"images has shape \(4, 3, 8, 7\)"),
    ("images grey", tensor("images", lambda x: x[:, :1].clone()), r"images has shape \(4, 1, 8, 8\)"),
    ("images with alpha", tensor("images", lambda x: torch.cat([x, x[:, :1]], 1)), r"\(4, 4, 8, 8\), not \(n=4, 3, S"),
    ("images last channel", tensor("images", lambda x: x.permute(0, 2, 3, 1).contiguous()), r"\(4, 8, 8, 3\)"),
    ("images one more", tensor("images", lambda x: torch.cat([x, x[:1]])), r"images has shape \(5, 3, 8, 8\)"),
    ("images empty", tensor("images", lambda x: x[..., :0, :0].clone()), r"images has shape \(4, 3, 0, 0\)"),
    ("images flat", tensor("images", lambda x: x.flatten(1)), r"images has shape \(4, 192\)"),
    ("soft labels NaN", tensor("soft_labels", at(0, 0, value=NAN)), "soft_labels holds NaN"),
    ("soft labels half", tensor("soft_labels", lambda p: p / 2), "soft_labels are not shares that sum to 1"),
    (
        "soft labels negative",
        tensor("soft_labels", lambda p: p * torch.tensor([3, -1]) * 0 + torch.tensor([2.0, -1])),
        "shares",
    ),
    ("soft labels zero", tensor("soft_labels", torch.zeros_like), "soft_labels are not shares"),
    ("soft labels of 3", tensor("soft_labels", lambda p: torch.ones(4, 3) / 3), r"\(4, 3\), not \(n=4, C=2\)"),
    ("soft labels one row", tensor("soft_labels", lambda p: p[:1].clone()), r"soft_labels has shape \(1, 2\)"),
    ("soft labels double", tensor("soft_labels", torch.Tensor.double), "soft_labels is of type torch.float64"),
    ("mean missing", tensor("preprocessing.mean", None), "preprocessing.mean is missing, which pca3 needs"),
    ("projection missing", tensor("preprocessing.projection", None), "preprocessing.projection is missing, which pca3"),
    ("mean NaN", tensor("preprocessing.mean", at(5, value=NAN)), "preprocessing.mean holds NaN"),
    ("mean shorter", tensor("preprocessing.mean", lambda m: m[:5].clone()), r"mean has shape \(5,\), not \(D=128\)"),
    ("mean with a row", tensor("preprocessing.mean", lambda m: m[None].clone()), r"mean has shape \(1, 128\)"),
    (
        "projection infinite",
        tensor("preprocessing.projection", at(0, 0, value=INFINITE)),
        "projection holds NaN or inf",
    ),
    (
        "projection narrow",
        tensor("preprocessing.projection", lambda p: p[:, :2].clone()),
        r"\(128, 2\), not \(D=128, k=3",
    ),
    ("projection turned", tensor("preprocessing.projection", lambda p: p.T.contiguous()), r"\(3, 128\)"),
    ("projection integer", tensor("preprocessing.projection", torch.Tensor.int), "projection is of type torch.int32"),
    ("a tensor more", tensor("targets", lambda _: torch.ones(4, 2)), "targets has no place in it"),
    ("statistics of raw", members(8, "raw"), "preprocessing.mean has no place in it"),
    ("other columns", members(8, "pca4"), r"projection has shape \(128, 3\), not \(D=128, k=4\)"),
    ("preprocessing unknown", members(8, "umap3"), r"preprocessing=umap3: unknown"),
    ("preprocessing auto", members(8, "auto"), r"preprocessing=auto: unknown"),
    ("preprocessing of many digits", members(8, "pca" + "9" * 5000), r"preprocessing=pca9+: unknown"),
    ("preprocessing in other digits", members(8, "pca٣"), r"preprocessing=pca.*: unknown"),
    ("preprocessing a number", members(8, 3), "the preprocessing's name is not a text"),
    ("preprocessing more", header(preprocessing={"name": "pca3", "n_estimators": 1, "mean": 3}), "and nothing else"),
    ("preprocessing less", header(preprocessing={"name": "pca3"}), "does not hold name and n_estimators"),
    ("preprocessing a list", header(preprocessing=["pca3", 1]), "does not hold name and n_estimators"),
    ("preprocessing not JSON", header(preprocessing="{"), "preprocessing is not JSON"),
    ("members 0", members(0), MEMBERS),
    ("members negative", members(-3), MEMBERS),
    ("members huge", members(10**9), MEMBERS),
    ("members true", members(True), MEMBERS),
    ("members a fraction", members(1.5), MEMBERS),
    ("members a text", members("8"), MEMBERS),
    ("members null", members(None), MEMBERS),
    ("members NaN", header(preprocessing='{"name": "pca3", "n_estimators": NaN}'), "preprocessing holds NaN"),
    ("classes twice", header(class_names=["cat", "cat"]), "two classes have one name, 'cat'"),
    ("classes that look the same", header(class_names=["é", "e\u0301"]), "two classes have one name"),
    ("classes none", header(class_names=[]), "there are no classes"),
    ("classes fewer", header(class_names=["cat"]), r"soft_labels has shape \(4, 2\), not \(n=4, C=1\)"),
    ("classes numbers", header(class_names=[0, 1]), "class_names is not a list of texts"),
    ("classes a text", header(class_names='"ab"'), "class_names is not a list of texts"),
    ("classes a table", header(class_names={"a": 1}), "class_names is not a list of texts"),
    ("classes outside", header(class_names=["..", "cat"]), r"class name '\.\.' cannot be a folder's name"),
    ("classes with a slash", header(class_names=["a/b", "cat"]), "class name 'a/b' cannot be a folder's name"),
    ("classes with a line's end", header(class_names=["a\nb", "cat"]), r"class name 'a\\nb' cannot be a folder's"),
    ("classes with an escape", header(class_names=["\x1b[2J", "cat"]), r"class name '\\x1b\[2J' cannot be a folder"),
    ("classes right to left", header(class_names=["\u202egnp", "cat"]), "cannot be a folder's name"),
    ("classes empty", header(class_names=["", "cat"]), "class name '' cannot be a folder's name"),
    ("classes half a pair", header(class_names='["\\ud800", "cat"]'), "cannot be a folder's name"),
    ("classes missing", header(class_names=None), "its header lacks class_names"),
    ("classes cut", header(class_names='["cat"'), "class_names is not JSON"),
    ("metadata missing", header(metadata=None), "its header lacks metadata"),
    ("metadata a list", header(metadata="[]"), "metadata is not a table"),
    ("metadata deep", header(metadata="[" * 100_000), "metadata is not JSON"),
    ("metadata infinite", header(metadata='{"seed": Infinity}'), "metadata holds Infinity, which JSON has not"),
    ("metadata of 5,000 digits", header(metadata='{"seed": ' + "9" * 5000 + "}"), "metadata is not JSON"),
    ("a key more", header(protocols="x"), "its header should not hold protocols"),
    ("format missing", header(format=None), "format is 'missing', not synthicl context set 2"),
    (
        "format newer",
        header(format="synthicl context set 3"),
        r"of format 3, and this synthicl reads 2\)\. Read it with synthicl 9\.8\.7\.$",
    ),
    (
        "format of the future",
        header(format="synthicl context set 3", metadata="[]"),
        r"Read it with a newer synthicl\.$",
    ),
    ("format 0", header(format="synthicl context set 0"), "format is 'synthicl context set 0'"),
    ("format of others", header(format="pt"), "format is 'pt'"),
    (
        "version 0.1.0",
        header(format="synthicl context set 1", checksum=None, preprocessing=None, protocol="{}"),
        r"synthicl 0\.1\.0 wrote it\)\. Read it with that version, or",
    ),
    ("checksum missing", header(checksum=None), "its header lacks checksum"),
    ("checksum of another", header(checksum="0" * 64), "the checksum differs"),
    ("seed negative", about(seed=-1), r"metadata: seed is -1, not a whole number from 0 to"),
    ("seed true", about(seed=True), "metadata: seed is true, not a whole number"),
    ("split seed a fraction", about(split_seed=0.5), "metadata: split_seed is 0.5"),
    ("random state too large", about(random_state=2**32), "metadata: random_state is 4294967296"),
    ("crop size 0", about(crop_size=0), "metadata: crop_size is 0, not a whole number from 1 to 8192"),
    ("crop size huge", about(crop_size=100_000), "metadata: crop_size is 100000"),
    ("crop size a text", about(crop_size="32"), 'metadata: crop_size is "32"'),
    ("ipc 0", about(ipc=0), "metadata: ipc is 0"),
    ("ipc null", about(ipc=None), "metadata: ipc is null"),
    ("steps negative", about(steps=-1), "metadata: steps is -1"),
    ("backbone a number", about(backbone=3), "metadata: backbone is 3, not a text"),
    ("dataset empty", about(dataset=""), 'metadata: dataset is "", not a text'),
    ("weights no hash", about(backbone_weights="../x"), "metadata: backbone_weights .* not 16 hexadecimal digits"),
    ("TabICL's weights null", about(tabicl_weights=None), "metadata: tabicl_weights is null"),
    ("versions a list", about(versions=[]), "metadata: versions is .*, not a table of texts"),
    ("versions numbers", about(versions={"torch": 2}), "not a table of texts"),
    ("labels of no type", about(label_type="float"), 'metadata: label_type is "float", not str or int'),
    ("empty", content(lambda old: b""), r"\(.*"),
    ("8 bytes", content(lambda old: old[:8]), r"\(.*"),
    ("half", content(lambda old: old[: len(old) // 2]), r"\(.*"),
    ("cut at the end", content(lambda old: old[:-1]), r"\(.*"),
    ("longer", content(lambda old: old + b"x"), r"\(.*"),
    ("a length of 2**63", content(lambda old: struct.pack("<Q", 2**63) + old[8:]), r"\(.*"),
    ("a pickle", content(lambda old: b"\x80\x04N."), r"\(.*"),
    ("the last bit", content(lambda old: old[:-1] + bytes([old[-1] ^ 1])), "the checksum differs"),
]


@table(CONTEXT_SETS)
def test_a_context_set_that_lies(refuses, run, make, message):
    refuses(make, DAMAGED + "(.*)" + message if not message.startswith(r"\(") else DAMAGED, run)


SPECIAL = [
    ("FIFO", special("FIFO"), "which is a FIFO"),
    ("folder", special("folder"), "which is a folder"),
    ("circle", special("circle"), "which is a link in a circle"),
    ("dangling", special("dangling"), "which is a link to nothing"),
    ("device", special("device"), "which is a device"),
    ("socket", special("socket"), "which is a socket"),
    ("long name", lambda run: lambda: ContextSet.load("x" * 5000), "which is out of reach"),
    ("zero byte", lambda run: lambda: ContextSet.load("x\0y"), r"looked for context.safetensors\)"),
]


@table(SPECIAL)
def test_something_else_in_the_place_of_a_context_set(refuses, run, make, message):
    refuses(make, f"no context set there.*{message}", run)


@pytest.mark.parametrize("command", ["predict", "compare", "boundary"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (members(0), DAMAGED + MEMBERS),
        (tensor("embeddings", at(0, 0, value=NAN)), DAMAGED + "embeddings holds NaN"),
        (about(dataset="digits", ipc=0), DAMAGED + "metadata: ipc is 0"),
        (header(metadata="[]"), DAMAGED + "metadata is not a table"),
        (content(lambda old: old[:100]), DAMAGED),
    ],
    ids=["members", "NaN", "ipc", "metadata", "cut"],
)
def test_commands_refuse_a_context_set_that_lies(refuses, run, command, make, message):
    def words(run):
        make(run)
        return [command, run] if command != "predict" else [command, run, image(run.parent / "x.png")]

    refuses(words, message, run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "gone"}, r"--backbone\.name=gone: unknown"),
        ({"backbone_weights": "0" * 16}, r"--backbone\.weights: these weights of mini .* are not those"),
        ({"crop_size": 33}, r"crop_size=33 does not suit its backbone mini"),
        ({"backbone": None}, r"metadata: backbone is null"),
        ({"tabicl_checkpoint": "v9"}, r"--tabicl\.checkpoint=v9: unknown"),
        ({"tabicl_checkpoint": "gone.ckpt"}, r"gone\.ckpt.*Supply it with --tabicl\.model_path=PATH"),
        ({"tabicl_weights": "0" * 16}, r"--tabicl\.model_path=.*: these weights .* are not those the context set"),
        ({"label_type": "int"}, r"says that its labels are whole numbers, and they are cat, dog"),
    ],
)
def test_predict_refuses_what_does_not_fit(refuses, run, change, message):
    def words(run):
        about(**change)(run)
        return ["predict", run, image(run.parent / "x.png")]

    refuses(words, message, run)


def test_predict_refuses_embeddings_of_another_length(refuses, run):
    def words(run):
        rewrite(
            run,
            {"embeddings": torch.randn(N, 64), "preprocessing.mean": None, "preprocessing.projection": None},
            preprocessing=json.dumps({"name": "raw", "n_estimators": 1}),
        )
        return ["predict", run, image(run.parent / "x.png")]

    refuses(words, "embeddings have 64 numbers, and those of its backbone mini have 128", run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": torch.full((N, D), NAN)}, "cannot be written: embeddings holds NaN"),
        ({"class_names": ["cat", "cat"]}, "two classes have one name, 'cat'"),
        ({"metadata": {"ipc": 0}}, "metadata: ipc is 0"),
        ({"preprocessing": Preprocessing("raw", 0)}, "n_estimators=0: must be"),
        ({"preprocessing": Preprocessing("pca3", 1)}, "preprocessing.mean is missing"),
    ],
)
def test_what_would_not_be_read_is_not_written(refuses, sound, tmp_path, change, message):
    context = ContextSet.load(sound)
    for name, value in change.items():
        setattr(context, name, value)
    refuses(lambda: partial(context.save, tmp_path / "new"), message)


def same(one: ContextSet, other: ContextSet) -> None:
    """Two sets hold the same."""
    for name in ("embeddings", "labels", "images", "soft_labels"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert (one.class_names, one.metadata) == (other.class_names, other.metadata)
    assert (one.preprocessing.name, one.preprocessing.n_estimators) == (
        other.preprocessing.name,
        other.preprocessing.n_estimators,
    )
    assert torch.equal(one.preprocessing.mean, other.preprocessing.mean)
    assert torch.equal(one.preprocessing.projection, other.preprocessing.projection)


@property_test(max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), early=st.booleans())
def test_a_flipped_bit_is_found(sound, tmp_path, place, bit, early):
    whole = (sound / "context.safetensors").read_bytes()
    index = int(place * (2000 if early else len(whole)))  # the header lies early
    (tmp_path / "context.safetensors").write_bytes(
        whole[:index] + bytes([whole[index] ^ (1 << bit)]) + whole[index + 1 :]
    )
    try:
        loaded = ContextSet.load(tmp_path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        same(loaded, ContextSet.load(sound))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@property_test(max_examples=100)
@given(
    key=st.sampled_from(["class_names", "preprocessing", "metadata", "format"]),
    value=json_values,
    name=st.sampled_from(
        ["seed", "crop_size", "backbone", "versions", "label_type", "ipc", "x", "n_estimators", "name"]
    ),
)
def test_any_header_is_read_or_refused(sound, tmp_path, key, value, name):
    shutil.copy(sound / "context.safetensors", tmp_path)
    changed = value if key != "metadata" else {name: value}
    rewrite(tmp_path, **{key: json.dumps(changed)})
    try:
        loaded = ContextSet.load(tmp_path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        card(loaded, "")


@property_test(max_examples=100)
@given(
    name=st.sampled_from(["embeddings", "labels", "images", "soft_labels", "preprocessing.mean", "other"]),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 128]), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.bfloat16]),
    fill=st.sampled_from([0, 1, -1, 7, NAN, INFINITE]),
)
@example(name="embeddings", shape=[4, 128], dtype=torch.float32, fill=0)
def test_any_tensor_is_read_or_refused(sound, tmp_path, name, shape, dtype, fill):
    shutil.copy(sound / "context.safetensors", tmp_path)
    value = (
        torch.zeros(shape, dtype=dtype)
        if np.isnan(fill) and not dtype.is_floating_point
        else torch.full(shape, fill if dtype.is_floating_point or np.isfinite(fill) else 1, dtype=torch.float64).to(
            dtype
        )
    )
    rewrite(tmp_path, {name: value})
    try:
        loaded = ContextSet.load(tmp_path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert torch.equal(load_file(tmp_path / "context.safetensors")[name], value)
        assert loaded.embeddings.isfinite().all()


# ---------------------------------------------------------------------------------------------------------- images


def image(path: Path, colour=(200, 30, 90), size=(9, 7), mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def encoded(kind: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (33, 35, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def file_of(data: bytes | Callable[[], bytes], name: str = "x.png"):
    def make(folder):
        path = folder / name
        path.write_bytes(data() if callable(data) else data)
        return lambda: read_image(path)

    return make


def other_than_a_file(kind: str, name: str = "x.png"):
    return lambda folder: partial(read_image, put(kind, folder / name))


def grey(values, dtype, name: str = "x.tif"):
    def make(folder):
        Image.fromarray(np.array(values, dtype=dtype)).save(folder / name)
        return lambda: read_image(folder / name)

    return make


def bomb() -> bytes:
    """A PNG that says it has 10**10 pixels."""
    whole = bytearray(encoded("PNG"))
    whole[16:24] = struct.pack(">II", 100_000, 100_000)
    whole[29:33] = struct.pack(">I", __import__("zlib").crc32(bytes(whole[12:29])))
    return bytes(whole)


UNREADABLE = [
    ("empty", file_of(b""), "cannot identify image file"),
    ("text", file_of(b"hello"), "cannot identify"),
    ("PNG's first bytes", file_of(b"\x89PNG\r\n\x1a\n"), r"\("),
    ("half a PNG", file_of(lambda: encoded("PNG")[:1500]), "truncated|broken"),
    ("half a JPEG", file_of(lambda: encoded("JPEG")[:700], "x.jpg"), "truncated"),
    ("half a WebP", file_of(lambda: encoded("WEBP")[:300], "x.webp"), r"\("),
    ("half a TIFF", file_of(lambda: encoded("TIFF")[:900], "x.tif"), r"\("),
    ("half a BMP", file_of(lambda: encoded("BMP")[:900], "x.bmp"), "truncated"),
    ("half a GIF", file_of(lambda: encoded("GIF")[:900], "x.gif"), "truncated"),
    ("half a PPM", file_of(lambda: encoded("PPM")[:900], "x.ppm"), "truncated"),
    ("bomb", file_of(bomb), "decompression bomb"),
    ("huge PGM", file_of(b"P5 99999 99999 255\n", "x.pgm"), "decompression bomb"),
    ("PGM of no size", file_of(b"P5 0 0 255\n", "x.pgm"), r"\("),
    ("PGM of a minus", file_of(b"P5 -3 3 255\n", "x.pgm"), r"\("),
    ("PostScript", file_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "cannot identify"),
    ("SVG", file_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "cannot identify"),
    ("HTML", file_of(b"<html><body>404 Not Found</body></html>", "x.jpg"), "cannot identify"),
    ("a pickle", file_of(b"\x80\x04N."), "cannot identify"),
    ("FIFO", other_than_a_file("FIFO"), "it is a FIFO"),
    ("device", other_than_a_file("device"), "it is a device"),
    ("socket", other_than_a_file("socket"), "it is a socket"),
    ("circle", other_than_a_file("circle"), "it is a link in a circle"),
    ("dangling", other_than_a_file("dangling"), "it is a link to nothing"),
    ("folder", other_than_a_file("folder"), "Is a directory"),
    ("gone", lambda folder: lambda: read_image(folder / "gone.png"), "No such file"),
    ("long name", lambda folder: lambda: read_image(folder / ("x" * 300 + ".png")), "it is out of reach"),
    ("zero byte", lambda folder: lambda: read_image(Path("a\0b.png")), r"a\\x00b\.png: .*null byte"),
    (
        "name of two lines",
        lambda folder: lambda: read_image(folder / "a\nb\x1b[31m.png"),
        r"a\\nb\\x1b\[31m\.png: not a",
    ),
    ("name not UTF-8", lambda folder: lambda: read_image(folder / os.fsdecode(b"\xff.png")), r"\\udcff\.png: not a"),
    ("LAB", lambda folder: lambda: read_image(image(folder / "x.tif", mode="LAB", colour=1)), "mode LAB has no rule"),
    (
        "LAB in memory",
        lambda folder: lambda: read_image(Image.new("LAB", (3, 3))),
        "in memory: .*mode LAB has no rule",
    ),
    ("float NaN", grey([[0.1, NAN]], np.float32), "NaN or infinite"),
    ("float infinite", grey([[0.1, INFINITE]], np.float32), "NaN or infinite"),
]


@pytest.mark.filterwarnings("ignore")
@table([row for row in UNREADABLE if not row[0].startswith("LAB")])
def test_an_image_that_cannot_be_read(refuses, tmp_path, make, message):
    refuses(make, rf"(?=.*{message}).*: not a readable image \(.*\)\. Remove it or replace it\.$", tmp_path)


@table([row for row in UNREADABLE if row[0].startswith("LAB")])
def test_a_mode_without_a_rule(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path)()


SHADES = [
    ("16 bit", [[0, 0x100, 0x8000, 0xFFFF]], np.uint16, [0, 1, 128, 255]),
    ("12 bit", [[0, 16, 2048, 4095]], np.uint16, [0, 1, 128, 255]),
    ("8 bit in 16", [[0, 1, 128, 255]], np.uint16, [0, 1, 128, 255]),
    ("16 bit in 32", [[0, 256, 65535]], np.int32, [0, 1, 255]),
    ("32 bit", [[0, 500_000, 1_000_000]], np.int32, [0, 128, 255]),
    ("Hounsfield", [[-1000, 0, 1000]], np.int32, [0, 128, 255]),
    ("a flat one", [[-7, -7]], np.int32, [0, 0]),
    ("float to 1", [[0.0, 0.5, 1.0]], np.float32, [0, 128, 255]),
    ("float to 255", [[0.0, 128.0, 255.0]], np.float32, [0, 128, 255]),
    ("float about 0", [[-2.0, 0.0, 2.0]], np.float32, [0, 128, 255]),
    ("float, all black", [[0.0, 0.0]], np.float32, [0, 0]),
]


@pytest.mark.parametrize(("values", "dtype", "expected"), [pytest.param(*rest, id=name) for name, *rest in SHADES])
def test_grey_of_more_than_8_bit(tmp_path, values, dtype, expected):
    shades = read_image_of(tmp_path, values, dtype)
    assert shades.tolist() == expected


def read_image_of(folder, values, dtype):
    return np.asarray(grey(values, dtype)(folder)())[0, :, 0]


def test_16_bit_netpbm(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 65535\n\x00\x00\x80\x00\xff\xff")
    assert np.asarray(read_image(tmp_path / "x.pgm"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_the_first_frame_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(
        tmp_path / f"x.{suffix}",
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if suffix == "webp" else {}),
    )
    assert read_image(tmp_path / f"x.{suffix}").getpixel((0, 0)) == (255, 0, 0)


@property_test(max_examples=80)
@given(
    mode=st.sampled_from(
        [
            "1",
            "L",
            "LA",
            "La",
            "P",
            "PA",
            "RGB",
            "RGBA",
            "RGBa",
            "RGBX",
            "CMYK",
            "YCbCr",
            "HSV",
            "I",
            "F",
            "I;16",
            "I;16B",
            "I;16L",
            "LAB",
        ]
    ),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    suffix=st.sampled_from(["tif", "png", "webp", "gif", "bmp", "jpg", "pgm", None]),
)
def test_every_mode_and_size_is_rgb_or_refused(tmp_path, mode, width, height, suffix):
    made = Image.new("LA", (width, height)).convert("PA") if mode == "PA" else Image.new(mode, (width, height), 1)
    path = tmp_path / f"x.{suffix}"
    if suffix:
        try:
            made.save(path)
        except (OSError, KeyError, ValueError, SystemError):  # this format does not hold this mode
            return
    try:
        read = read_image(path if suffix else made)
    except UserError as error:
        assert "mode LAB has no rule" in str(error)
    else:
        assert (read.mode, read.size) == ("RGB", (width, height))


@property_test(max_examples=60)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]),
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_are_an_image_or_refused(tmp_path, kind, places):
    whole = bytearray(encoded(kind))
    for place, value in places:
        whole[int(place * len(whole))] = value
    (tmp_path / "x").write_bytes(whole)
    try:
        assert read_image(tmp_path / "x").mode == "RGB"
    except UserError as error:
        assert "\n" not in str(error)


# ------------------------------------------------------------------------------------------------- folders of images


def dataset(root: Path, per_class: int = 5, names=("cat", "dog")) -> Path:
    for number, name in enumerate(names):
        for index in range(per_class):
            image(root / name / f"{index}.png", (40 * number, 9 * index, 3))
    return root


def folder_with(spoil: Callable[[Path], object]):
    """A row with a folder of images, spoilt."""

    def make(tmp):
        root = dataset(tmp / "images")
        spoil(root)
        return lambda: ImageDataModule("folder", root)

    return make


def csv_of(*lines: str, encoding: str = "utf-8", name: str = "metadata.csv"):
    def spoil(root):
        (root / name).write_bytes("\n".join(lines).encode(encoding, "surrogatepass"))

    return folder_with(spoil)


def jsonl(*lines: str):
    return csv_of(*lines, name="metadata.jsonl")


def not_utf8(root):
    path = os.fsencode(root / "cat") + b"/\xff.txt"
    with open(path, "wb"):  # noqa: PTH123
        pass


HEADER = "file_name,label"
GROUPED = f"{HEADER},group"
FOLDERS = [
    *(
        (
            f"{kind} among images",
            folder_with(lambda root, kind=kind: put(kind, root / "cat" / "x.png")),
            f"x.png is {words}, not an image. Remove it",
        )
        for kind, words in {
            "FIFO": "a FIFO",
            "circle": "a link in a circle",
            "dangling": "a link to nothing",
            "device": "a device",
            "socket": "a socket",
        }.items()
    ),
    (
        "text among images",
        folder_with(lambda root: (root / "cat" / "notes.txt").touch()),
        r"notes\.txt is not an image",
    ),
    (
        "a name of two lines",
        folder_with(lambda root: (root / "cat" / "a\nb.txt").touch()),
        r"a\\nb\.txt is not an image",
    ),
    ("a name not UTF-8", folder_with(not_utf8), r"\\udcff\.txt is not an image"),
    (
        "a class of two lines",
        folder_with(lambda root: dataset(root, names=["a\nb"])),
        r"class name 'a\\nb' cannot be a folder's",
    ),
    (
        "a class with an escape",
        folder_with(lambda root: dataset(root, names=["\x1b[2J"])),
        r"class name '\\x1b\[2J' cannot",
    ),
    (
        "a class right to left",
        folder_with(lambda root: dataset(root, names=["\u202ex"])),
        r"class name '\\u202ex' cannot",
    ),
    (
        "a class with a backslash",
        folder_with(lambda root: dataset(root, names=["a\\b"])),
        r"class name 'a\\\\b' cannot",
    ),
    (
        "classes that look the same",
        folder_with(lambda root: dataset(root, names=["é", "e\u0301"])),
        r"two classes look the same, 'e\\u0301' and '\\xe9'\. Rename one",
    ),
    ("a class without images", folder_with(lambda root: (root / "owl").mkdir()), "no images in class folder .*owl"),
    ("a class of two images", folder_with(lambda root: dataset(root, 2, ["owl"])), "no test images of class 'owl'"),
    ("a split in other words", folder_with(lambda root: dataset(root / "Testing")), "looks like a split"),
    ("root a file", lambda tmp: partial(ImageDataModule, "folder", image(tmp / "x.png")), "not a folder"),
    ("root a FIFO", lambda tmp: partial(ImageDataModule, "folder", put("FIFO", tmp / "x")), "not a folder"),
    ("root a circle", lambda tmp: partial(ImageDataModule, "folder", put("circle", tmp / "x")), "not a folder"),
    ("root too long", lambda tmp: lambda: ImageDataModule("folder", tmp / ("x" * 5000)), "not a folder"),
    ("root with a zero byte", lambda tmp: lambda: ImageDataModule("folder", Path("a\0b")), r"a\\x00b: not a folder"),
    ("csv empty", csv_of(""), "found 0 labels"),
    ("csv header only", csv_of(HEADER), "found 0 labels"),
    (
        "csv of other columns",
        csv_of("path,class", "cat/0.png,cat"),
        r"line 2: no column 'file_name' \(found 'path', 'cl",
    ),
    ("csv a column twice", csv_of("file_name,label,label", "cat/0.png,cat,dog"), "two columns are called 'label'"),
    ("csv more cells", csv_of(HEADER, "cat/0.png,cat,dog"), "more cells than columns"),
    ("csv fewer cells", csv_of(HEADER, "cat/0.png"), "label is None"),
    ("csv open quote", csv_of(HEADER, '"cat/0.png,cat'), "not CSV"),
    ("csv long field", csv_of(HEADER, "x" * 200_000 + ",cat"), "field larger than field limit"),
    ("csv long name", csv_of(HEADER, "x" * 5000 + ".png,cat"), "is out of reach"),
    ("csv zero byte", csv_of(HEADER, "a\0.png,cat"), "missing|NUL"),
    ("csv UTF-16", csv_of(HEADER, "cat/0.png,cat", encoding="utf-16"), "cannot be read .* Save it as UTF-8"),
    ("csv outside", csv_of(HEADER, "../x.png,cat"), "lies outside"),
    ("csv absolute", csv_of(HEADER, "/etc/passwd,cat"), "lies outside"),
    ("csv of a drive", csv_of(HEADER, "C:x.png,cat"), "lies outside"),
    ("csv a folder", csv_of(HEADER, "cat,cat"), "is not an image"),
    ("csv missing image", csv_of(HEADER, "cat/9.png,cat"), r"9\.png is missing\. Add it, or remove the line"),
    ("csv twice", csv_of(HEADER, "cat/0.png,cat", "cat/0.png,dog"), "was named before"),
    ("csv label outside", csv_of(HEADER, "cat/0.png,../x", "dog/0.png,dog"), r"class name '\.\./x' cannot be"),
    (
        "csv labels look the same",
        csv_of(
            HEADER, *(f"{name}/{i}.png,{label}" for name, label in (("cat", "é"), ("dog", "e\u0301")) for i in range(5))
        ),
        "two classes look the same",
    ),
    ("csv FIFO", csv_of(HEADER, "cat/x.png,cat"), "x.png is missing"),
    ("group empty", csv_of(GROUPED, "cat/0.png,cat,a", "dog/0.png,dog,"), "line 3: group is ''. Write a text"),
    ("group of no cell", csv_of(GROUPED, "cat/0.png,cat,a", "dog/0.png,dog"), "line 3: group is None. Write a text"),
    (
        "one group",
        csv_of(GROUPED, "cat/0.png,cat,../../a", "dog/0.png,dog,../../a"),
        r"line 2: '\.\./\.\./a' is the only group\. Name two at least, or remove the column",
    ),
    (
        "groups look the same",
        csv_of(GROUPED, "cat/0.png,cat,é", "dog/0.png,dog,e\u0301"),
        r"two groups look the same, 'e\\u0301' and '\\xe9'\. Rename one",
    ),
    ("group a list", jsonl('{"file_name": "cat/0.png", "label": "cat", "group": ["a"]}'), r"group is \['a'\]\. Write"),
    ("group null", jsonl('{"file_name": "cat/0.png", "label": "cat", "group": null}'), r"group is None\. Write"),
    (
        "group of some images",
        jsonl('{"file_name": "cat/0.png", "label": "cat", "group": "a"}', '{"file_name": "dog/0.png", "label": "dog"}'),
        r"line 2: no group, and .*line 1 has one\. Give every image a group, or remove the column",
    ),
    ("jsonl a list", jsonl("[1, 2]"), "is no JSON object"),
    ("jsonl deep", jsonl("[" * 100_000), "not JSON"),
    ("jsonl many digits", jsonl('{"file_name": "cat/0.png", "label": ' + "9" * 5000 + "}"), "not JSON"),
    ("jsonl half a pair", jsonl('{"file_name": "\\ud800.png", "label": "cat"}'), r"\\ud800\.png is missing"),
    ("jsonl a name of two lines", jsonl('{"file_name": "a\\nb.png", "label": "cat"}'), r"a\\nb\.png is missing"),
    ("jsonl an escape", jsonl('{"file_name": "\\u001b[2J.txt", "label": "cat"}'), r"\\x1b\[2J\.txt is not an image"),
    ("jsonl a number", jsonl('{"file_name": 3, "label": "cat"}'), "3 is not an image"),
    ("jsonl label true", jsonl('{"file_name": "cat/0.png", "label": true}'), "label is True. Write a text"),
    ("jsonl label a list", jsonl('{"file_name": "cat/0.png", "label": [1]}'), r"label is \[1\]"),
    ("jsonl label a fraction", jsonl('{"file_name": "cat/0.png", "label": 0.5}'), "label is 0.5"),
    (
        "jsonl control characters",
        jsonl('{"file_name": "cat/0.png", "label": "a\\u0007"}', '{"file_name": "dog/0.png", "label": "b"}'),
        r"class name 'a\\x07' cannot",
    ),
]


@table(FOLDERS)
def test_a_folder_of_images(refuses, tmp_path, make, message):
    refuses(make, message, tmp_path)


FIT = ("fit", "-c", "data/folder", "-c", "backbone/mini")


@table(
    [
        (
            "gone",
            lambda tmp: [*FIT, f"--data.root={tmp}/gone"],
            r"folder of images: not found .*Supply it with --data.root",
        ),
        (
            "FIFO",
            lambda tmp: [*FIT, f"--data.root={put('FIFO', tmp / 'x')}"],
            "which is a FIFO.*Supply it with --data.root",
        ),
        ("circle", lambda tmp: [*FIT, f"--data.root={put('circle', tmp / 'x')}"], "which is a link in a circle"),
        ("long", lambda tmp: [*FIT, f"--data.root={'x' * 5000}"], "which is out of reach"),
        (
            "weights FIFO",
            lambda tmp: [*FIT, f"--data.root={dataset(tmp / 'd')}", f"--backbone.weights={put('FIFO', tmp / 'w')}"],
            "w, which is a FIFO.*--backbone.weights",
        ),
        (
            "TabICL device",
            lambda tmp: [*FIT, f"--data.root={dataset(tmp / 'd')}", f"--tabicl.model_path={put('device', tmp / 'w')}"],
            "w, which is a device.*--tabicl.model_path",
        ),
    ]
)
def test_fit_refuses_what_it_should_read(refuses, tmp_path, make, message):
    refuses(make, message, tmp_path)


def test_identical_images_are_counted(tmp_path, capsys):
    for split in ("train", "val", "test"):
        dataset(tmp_path / split)
    ImageDataModule("folder", tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert re.match(
        r"Warning: 10 of 10 images of val and 10 of 10 images of test are in train as well, for example .*val", line
    )


def test_different_images_are_not(tmp_path, capsys):
    for number, split in enumerate(("train", "val", "test")):
        for name in NAMES:
            image(tmp_path / split / name / "0.png", (number, 60 * len(name), ord(name[0])))
    ImageDataModule("folder", tmp_path)
    assert capsys.readouterr().out == ""


def test_classes_that_differ_in_case_are_noted(tmp_path, capsys):
    for number, split in enumerate(("train", "val", "test")):
        for name in ("a", "A"):
            image(tmp_path / split / name / "0.png", (number, ord(name), 5))
    data = ImageDataModule("folder", tmp_path)
    assert data.class_names == ["A", "a"]
    assert capsys.readouterr().out.startswith("Note: classes 'A' and 'a' differ in case only.")


# ------------------------------------------------------------------------------------------------------- predictions


def predict_onto(output: Callable[[Path, Path], Path]):
    def make(run, tmp):
        image(tmp / "images" / "a.png")
        (tmp / "list.txt").write_text("images/a.png\n")
        what = tmp / "list.txt" if output(run, tmp).name == "list.txt" else tmp / "images"
        return ["predict", run, what, f"--output={output(run, tmp)}"]

    return make


def linked(run, tmp, to: str = "images/a.png", hard: bool = False) -> Path:
    path = tmp / "out.csv"
    if not path.exists():
        (path.hardlink_to if hard else path.symlink_to)(tmp / to)
    return path


READ = "which is read. Name another file, for example predictions.csv"


@table(
    [
        ("an image", predict_onto(lambda run, tmp: tmp / "images" / "a.png"), READ),
        ("the list", predict_onto(lambda run, tmp: tmp / "list.txt"), READ),
        ("the context set", predict_onto(lambda run, tmp: run / "context.safetensors"), READ),
        ("around a corner", predict_onto(lambda run, tmp: tmp / "images" / ".." / "images" / "a.png"), READ),
        ("a link to an image", predict_onto(linked), READ),
        ("a hard link to an image", predict_onto(partial(linked, hard=True)), READ),
        ("the backbone", predict_onto(lambda run, tmp: backbone_spec("mini").weights.find()), READ),
        ("TabICL", predict_onto(lambda run, tmp: MINI), READ),
        ("a folder", predict_onto(lambda run, tmp: tmp / "images"), "is a folder. Name a file"),
        ("the run", predict_onto(lambda run, tmp: run), "is a folder. Name a file"),
        ("a device", predict_onto(lambda run, tmp: Path("/dev/null")), "is a device. Name a file"),
        ("below a file", predict_onto(lambda run, tmp: run / "context.safetensors" / "x.csv"), "cannot be written"),
        ("too long", predict_onto(lambda run, tmp: tmp / ("x" * 300)), "is out of reach"),
    ]
)
def test_predict_does_not_write_there(refuses, run, tmp_path, make, message):
    refuses(make, message, run, tmp_path)


@table(
    [
        ("nothing", lambda run, tmp: ["predict", run, tmp / "gone"], "no such file or folder"),
        ("FIFO", lambda run, tmp: ["predict", run, put("FIFO", tmp / "x")], "is a FIFO. Name a folder"),
        ("FIFO as an image", lambda run, tmp: ["predict", run, put("FIFO", tmp / "x.png")], "is a FIFO. Name a folder"),
        ("device", lambda run, tmp: ["predict", run, put("device", tmp / "x")], "is a device"),
        ("circle", lambda run, tmp: ["predict", run, put("circle", tmp / "x")], "is a link in a circle"),
        ("dangling", lambda run, tmp: ["predict", run, put("dangling", tmp / "x.png")], "is a link to nothing"),
        ("long", lambda run, tmp: ["predict", run, "x" * 5000], "is out of reach"),
        (
            "only FIFOs",
            lambda run, tmp: ["predict", run, put("FIFO", tmp / "in" / "x.png").parent],
            r"no image could be read, of 1\. The first: .*it is a FIFO",
        ),
        (
            "a list of nonsense",
            lambda run, tmp: ["predict", run, listed(tmp, "a\0b", "\x1b[2J", "x" * 5000)],
            "no image could be read, of 3",
        ),
        (
            "a list in Latin 1",
            lambda run, tmp: ["predict", run, listed(tmp, "é.png", encoding="latin-1")],
            "neither an image",
        ),
        (
            "batches of 0",
            lambda run, tmp: ["predict", run, image(tmp / "x.png"), "--batch_size=0"],
            "--batch_size=0: must be at least 1",
        ),
        ("no run", lambda run, tmp: ["predict", tmp / "gone", image(tmp / "x.png")], "no context set there"),
        (
            "run a FIFO",
            lambda run, tmp: ["predict", put("FIFO", tmp / "r"), image(tmp / "x.png")],
            "no context set there",
        ),
        (
            "weights of another",
            lambda run, tmp: [
                "predict",
                run,
                image(tmp / "x.png"),
                f"--backbone.weights={backbone_spec('mini_conv').weights.find()}",
            ],
            "not the weights of this backbone",
        ),
        (
            "weights an image",
            lambda run, tmp: ["predict", run, image(tmp / "x.png"), f"--backbone.weights={tmp}/x.png"],
            "not the weights of this backbone",
        ),
        (
            "weights a folder",
            lambda run, tmp: ["predict", run, image(tmp / "x.png"), f"--backbone.weights={tmp}"],
            "not a file",
        ),
        (
            "TabICL an image",
            lambda run, tmp: ["predict", run, image(tmp / "x.png"), f"--tabicl.model_path={tmp}/x.png"],
            "not a TabICL checkpoint",
        ),
        (
            "TabICL a folder",
            lambda run, tmp: ["predict", run, image(tmp / "x.png"), f"--tabicl.model_path={tmp}"],
            "not a TabICL checkpoint .it is a folder",
        ),
    ]
)
def test_predict_refuses_what_it_should_read(refuses, run, tmp_path, make, message):
    refuses(make, message, run, tmp_path)


def listed(tmp: Path, *names: str, encoding: str = "utf-8") -> Path:
    (tmp / "list.txt").write_bytes("\n".join(names).encode(encoding))
    return tmp / "list.txt"


def test_predict_keeps_going_and_writes_no_formulas(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rewrite(run, class_names=json.dumps(["=cmd|x!A0", "-1"]))
    for name in ("=1+1.png", "@x.png", "[red]|`x`\n.png"):
        image(tmp_path / name)
    put("FIFO", tmp_path / "x.png")
    assert main(["predict", str(run), str(listed(tmp_path, "=1+1.png", "@x.png", "x.png"))]) == 0
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "path,prediction,error,-1,'=cmd|x!A0"
    assert [line.split(",")[0] for line in lines[1:]] == ["./=1+1.png", "./@x.png", "x.png"]
    assert "it is a FIFO" in lines[3]
    assert main(["predict", str(run), str(tmp_path), "--output=out.csv"]) == 0
    assert "4 images" not in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- classifier

X, Y = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32), np.array([0, 1] * 4)


def fitted(**settings: object):
    return lambda: partial(InContextClassifier(**settings).fit, X, Y)


@table(
    [
        *(
            (
                f"members {value!r}",
                fitted(n_estimators=value),
                rf"^n_estimators={re.escape(str(value))}: must be a whole number from 1",
            )
            for value in (0, -3, 10_001, 10**30, True, False, 1.5, "8", NAN)
        ),
        ("preprocessing unknown", fitted(preprocessing="umap"), "^preprocessing=umap: unknown"),
        (
            "too many columns",
            fitted(preprocessing="pca9"),
            "^preprocessing=pca9: .*only 6 directions. Choose raw or pca6, or add images",
        ),
        (
            "preprocessing of others",
            fitted(preprocessing=Preprocessing("pca1", 1, torch.zeros(3), torch.zeros(3, 1))),
            "^preprocessing=pca1: is for rows of 3 numbers, and X has 6",
        ),
        ("no members", fitted(preprocessing=Preprocessing("raw", 0)), r"^preprocessing\.n_estimators=0: must be"),
        ("checkpoint unknown", fitted(checkpoint="v9"), "^checkpoint=v9: unknown"),
        ("no file", fitted(model_path="gone.ckpt"), "Supply it with model_path=PATH"),
        ("file a folder", fitted(model_path="."), "^model_path=.: not a TabICL checkpoint"),
    ]
)
def test_the_classifier_names_its_parameters(refuses, make, message):
    refuses(make, message)


@table(
    [
        ("one path", lambda fitted: lambda: fitted.predict_images("x.png"), "Put it into a list"),
        ("numbers", lambda fitted: lambda: fitted.predict_images([3]), "one of these is a int"),
        ("none", lambda fitted: lambda: fitted.predict_images([]), "There are no images"),
        ("floats", lambda fitted: lambda: fitted.predict_images(torch.zeros(1, 3, 8, 8)), "must be .* uint8"),
        (
            "no pixels",
            lambda fitted: lambda: fitted.predict_images(torch.zeros(1, 3, 0, 8, dtype=torch.uint8)),
            "must be",
        ),
        ("gone", lambda fitted: lambda: fitted.predict_images(["gone.png"]), "gone.png: not a readable image"),
    ]
)
def test_the_classifier_refuses_images(refuses, sound, make, message):
    refuses(make, message, InContextClassifier.from_context_set(sound))


def test_negative_strides(sound):
    classifier = InContextClassifier(n_estimators=1).fit(X[::-1], Y[::-1])
    expected = InContextClassifier(n_estimators=1).fit(X[::-1].copy(), Y[::-1].copy())
    np.testing.assert_array_equal(classifier.predict_proba(X[:, ::-1]), expected.predict_proba(X[:, ::-1].copy()))


# ------------------------------------------------------------------------------------------------- weights and caches


def weights(change, name: str = "mini"):
    """A row with changed weights of a bundled backbone."""

    def make(tmp):
        state = load_file(backbone_spec(name).weights.find())
        change(state)
        save_file(state, tmp / "w.safetensors")
        return lambda: create_backbone(name, tmp / "w.safetensors")

    return make


def raw_weights(data: bytes):
    def make(tmp):
        (tmp / "w.safetensors").write_bytes(data)
        return lambda: create_backbone("mini", tmp / "w.safetensors")

    return make


def poke(name: str, value: float):
    return lambda state: state[name].view(-1)[:1].fill_(value)


def tiny_dinov2(change):
    def make(tmp):
        narrow = {"embed_dim": 48, "depth": 2, "num_heads": 3}
        network = build_dinov2("b", registers=False, **narrow)
        state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
        change(state)
        torch.save(state, tmp / "w.pth")
        return lambda: load_dinov2(network, tmp / "w.pth")

    return make


PLACE = r"--backbone\.weights=.*w\.(safetensors|pth): "
WEIGHTS = [
    ("NaN", weights(poke("norm.bias", NAN)), "norm.bias holds NaN or infinite numbers. Choose another file"),
    ("infinite", weights(poke("cls_token", INFINITE)), "cls_token holds NaN"),
    ("NaN in statistics", weights(poke("bn1.running_var", NAN), "mini_conv"), "bn1.running_var holds NaN"),
    ("a tensor less", weights(lambda state: state.pop("cls_token")), "not the weights of this backbone .*cls_token"),
    ("a tensor more", weights(lambda state: state.update(x=torch.zeros(1))), "not the weights of this backbone .*x"),
    ("another shape", weights(lambda state: state.update(cls_token=torch.zeros(1))), "not the weights .*cls_token"),
    ("empty", raw_weights(b""), "not the weights of this backbone"),
    ("text", raw_weights(b"hello"), "not the weights of this backbone"),
    ("a pickle", raw_weights(b"\x80\x02N."), "not the weights of this backbone"),
    (
        "DINOv2 without a tensor",
        tiny_dinov2(lambda state: state.pop("blocks.1.ls2.gamma")),
        r"incomplete or changed: blocks\.1\.ls2\.gamma is missing\. Give the official",
    ),
    ("DINOv2 without CLS", tiny_dinov2(lambda state: state.pop("cls_token")), "incomplete: cls_token is missing"),
    ("DINOv2 without positions", tiny_dinov2(lambda state: state.pop("pos_embed")), "incomplete: pos_embed is missing"),
    (
        "DINOv2 of integers",
        tiny_dinov2(lambda state: state.update({"norm.bias": torch.zeros(48).long()})),
        "norm.bias is of type torch.int64",
    ),
    (
        "DINOv2 with flat registers",
        tiny_dinov2(lambda state: state.update(reg_token=torch.zeros(48))),
        "reg_token has no place",
    ),
    (
        "DINOv2 of two widths",
        tiny_dinov2(lambda state: state.update(register_tokens=torch.zeros(1, 4, 48), cls_token=torch.zeros(1, 1, 7))),
        "cls_token and pos_embed do not belong",
    ),
    (
        "DINOv2 with numbers for names",
        tiny_dinov2(lambda state: state.update({3: torch.zeros(1)})),
        "not a plain table of tensors",
    ),
]


@table(WEIGHTS)
def test_weights_of_a_backbone(refuses, tmp_path, make, message):
    refuses(make, PLACE + ".*" + message, tmp_path)


def checkpoint(change):
    def make(tmp):
        content = torch.load(MINI, weights_only=True)
        torch.save(change(content) or content, tmp / "w.ckpt")
        return lambda: check_checkpoint(tmp / "w.ckpt")

    return make


def config(**settings: object):
    return checkpoint(lambda content: content["config"].update(settings))


def bytes_of_mini(change):
    def make(tmp):
        (tmp / "w.ckpt").write_bytes(change(MINI.read_bytes()))
        return lambda: check_checkpoint(tmp / "w.ckpt")

    return make


@table(
    [
        ("empty", bytes_of_mini(lambda old: b""), "Error"),
        ("cut", bytes_of_mini(lambda old: old[:20_000]), "Error"),
        ("text", bytes_of_mini(lambda old: b"hello"), "Error"),
        ("zeros", bytes_of_mini(lambda old: bytes(len(old))), "Error"),
        (
            "folder",
            lambda tmp: partial(check_checkpoint, put("folder", tmp / "w.ckpt")),
            "IsADirectoryError",
        ),
        ("no config", checkpoint(lambda content: content.pop("config") and None), "it lacks config"),
        ("a list", checkpoint(lambda content: [1]), "lacks config"),
        (
            "config a list",
            checkpoint(lambda content: content.update(config=[1])),
            "config or state_dict is not a table",
        ),
        ("config of another", config(layers=3), "its config is that of another network"),
        ("config wider", config(embed_dim=64), "has shape"),
        ("config immense", config(embed_dim=32 * 10**5), "has shape"),
        ("config a text", config(embed_dim="32"), "its config is that of another network"),
        ("no tensors", checkpoint(lambda content: content.update(state_dict={})), "is missing"),
        (
            "tensors of another",
            checkpoint(lambda content: content.update(state_dict={"x": torch.zeros(1)})),
            "is missing",
        ),
        (
            "a tensor more",
            checkpoint(lambda content: content["state_dict"].update(x=torch.zeros(1))),
            "x has no place in it",
        ),
        ("no tensor", checkpoint(lambda content: content["state_dict"].update(x=3)), "x is not a tensor"),
        ("NaN", checkpoint(lambda content: next(iter(content["state_dict"].values())).fill_(NAN) is None), "holds NaN"),
    ]
)
def test_tabicl_checkpoints(refuses, tmp_path, make, message):
    refuses(make, rf"--tabicl\.model_path=.*w\.ckpt: not a TabICL checkpoint \(.*{message}", tmp_path)


@pytest.mark.parametrize("kind", ["FIFO", "device", "circle", "dangling", "folder"])
def test_special_files_are_no_checkpoints(refuses, tmp_path, kind):
    path = put(kind, tmp_path / "w.ckpt")
    refuses(lambda: lambda: find_checkpoint("mini", path), r"w\.ckpt.*--tabicl|--tabicl.*w\.ckpt")


@pytest.mark.parametrize("damage", ["bytes", "NaN", "shape", "type", "name", "FIFO"])
def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch, capsys, damage):
    monkeypatch.setenv("SYNTHICL_CACHE", str(tmp_path))
    backbone, images = create_backbone("mini"), LabelledImages([np.zeros((8, 8), dtype=np.uint8)] * 2, np.zeros(2))
    expected = embed_views(backbone, images, 32)
    assert capsys.readouterr().out == ""
    (path,) = (tmp_path / "embeddings").iterdir()
    whole = path.read_bytes()
    if damage == "bytes":
        path.write_bytes(whole[:-3])
    elif damage == "FIFO":
        path.unlink()
        put("FIFO", path)
    else:
        spoilt = {"NaN": expected * NAN, "shape": expected[:, :1].clone(), "type": expected.double(), "name": expected}
        save_file({"y" if damage == "name" else "z": spoilt[damage]}, path)
    assert torch.equal(embed_views(backbone, images, 32), expected)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: damaged cache file (")
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_computed(refuses, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SYNTHICL_CACHE", str(tmp_path / "file"))
    backbone = create_backbone("mini")
    monkeypatch.setattr(type(backbone), "forward", lambda *args: pytest.fail("computed"))
    images = LabelledImages([np.zeros((8, 8), dtype=np.uint8)], np.zeros(1))
    refuses(
        lambda: lambda: embed_views(backbone, images, 32),
        r"cannot be written \(.*\)\. Set \$SYNTHICL_CACHE to a folder that can be written\.",
    )


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket", "circle"])
def test_special_files_are_no_archives(refuses, tmp_path, kind):
    path = put(kind, tmp_path / "x.tar")
    refuses(
        lambda: lambda: unpack(path, tmp_path / "out", "data", lambda content: content), r"not an archive\. Name a tar"
    )


# --------------------------------------------------------------------------------------------------------------- card


def test_the_card_shows_names_as_they_stand(sound):
    context = ContextSet.load(sound)
    context.class_names = ["a|b", "[x](http://evil)"]
    context.metadata |= {"dataset": "<script>alert(1)</script>\n# Title", "objective": "`rm`", "dataset_licence": "*x*"}
    text = card(context, "")
    assert "| classes | a\\|b, \\[x\\](http://evil) |" in text
    assert "\\<script\\>" in text
    _, front_matter, page = text.split("---\n", 2)
    assert yaml.safe_load(front_matter)["license"] == "other"  # data, whatever stands in it
    assert "<script>" not in page
    assert "\n# Title" not in text
    assert "\\`rm\\`" in text
    assert "Dataset: \\*x\\*." in text
    assert unicodedata.is_normalized("NFC", text)
