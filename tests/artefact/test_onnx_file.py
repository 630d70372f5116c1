"""`synthicl export RUN --onnx`: what the file computes, what it says, and what is refused."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from synthicl.artefact import onnx_file
from synthicl.artefact.classifier import InContextClassifier
from synthicl.artefact.context_set import ContextSet
from synthicl.artefact.deployed import DeployedClassifier
from synthicl.artefact.predict import predict
from synthicl.backbones import create_backbone
from synthicl.backbones.models import dinov2, efficientnet, mini
from synthicl.cli.main import main
from synthicl.core.files import file_fingerprint
from synthicl.data.datasets.digits import load
from synthicl.embeddings.bank import embed_views
from synthicl.probes.calibrated import Calibration
from synthicl.probes.novelty import fit_novelty
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.preprocessing import fit_preprocessing

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ROOT = Path(__file__).parents[2]
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]  # not in alphabetical order


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A context set of one digit per class with its images, as a finished run leaves it."""
    train = load(None).splits["train"]
    part = train.take(np.array([np.flatnonzero(train.labels == label)[0] for label in range(10)]))
    backbone = create_backbone("mini")
    metadata = {"backbone": "mini", "backbone_weights": backbone.fingerprint, "crop_size": 32}
    metadata |= {"tabicl_checkpoint": "mini", "dataset": "digits"}
    pixels = np.stack([np.array(Image.fromarray(image).convert("RGB").resize((32, 32))) for image in part.images])
    context = ContextSet(
        embed_views(backbone, part, 32)[0],
        torch.from_numpy(part.labels),
        NAMES,
        fit_preprocessing("rotated12", embed_views(backbone, train, 32)[0], 3),
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        metadata,
    )
    folder = tmp_path_factory.mktemp("run")
    context.save(folder)
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory, run):
    """The exported file."""
    path = tmp_path_factory.mktemp("file") / "classifier.onnx"
    assert main(["export", str(run), f"--onnx={path}"]) == 0
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    return path


@pytest.fixture(scope="module")
def session(file):
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def refused(capsys, *args):
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main(list(map(str, args))) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line]
    return line


def test_probabilities_are_those_of_predict(tmp_path, run, session):
    images = load(None).splits["test"].images[:500]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:03d}.png")
    with predict(run, tmp_path, tmp_path / "table.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    about = session.get_modelmeta().custom_metadata_map
    names = json.loads(about["class_names"])
    expected = np.array([[float(row[name]) for name in names] for row in rows])
    squares = InContextClassifier.from_context_set(run).image_embedder().squares(sorted(tmp_path.glob("*.png")))
    inputs = torch.stack([squares[index] for index in range(500)]).numpy()
    [found] = session.run(None, {"images": inputs})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    [alone] = session.run(None, {"images": inputs[7:8]})
    np.testing.assert_allclose(alone, expected[7:8], atol=1e-4)
    assert len(set(found.argmax(1))) == 10


def test_the_file_says_what_it_is(run, file, session):
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == sorted(NAMES)
    assert {name: about[name] for name in ("crop_size", "backbone", "tabicl_checkpoint", "dataset", "members")} == {
        **{"crop_size": "32", "backbone": "mini", "tabicl_checkpoint": "mini", "dataset": "digits", "members": "3"}
    }
    assert about["context_set"] == file_fingerprint(run / "context.safetensors")
    assert about["tabicl_weights"] == file_fingerprint(MINI)
    assert about["preprocessing"] == "rotated12"
    assert {"synthicl", "torch", "tabicl", "onnx", "onnxruntime"} <= json.loads(about["versions"]).keys()
    [images], [probabilities] = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 3, 32, 32])
    assert (probabilities.name, probabilities.type, probabilities.shape[1]) == ("probabilities", "tensor(float)", 10)
    model = onnx.load(file)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", onnx_file.OPSET)]
    assert str(ROOT).encode() not in file.read_bytes()  # no paths of the machine it was made on
    assert sys.prefix.encode() not in file.read_bytes()


def test_the_lines_of_the_docs_need_neither_torch_nor_synthicl(tmp_path, run, file):
    page = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    [lines] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in block]
    (tmp_path / "classifier.onnx").write_bytes(file.read_bytes())
    digit = Image.fromarray(load(None).splits["test"].images[3]).convert("RGB").resize((75, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright
    digit.save(tmp_path / "photo.jpg", exif=exif)
    after = "import sys\nassert not {'torch', 'synthicl', 'tabicl', 'timm'} & sys.modules.keys()\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{lines}\n{after}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    name, probability = done.stdout.split()
    [expected] = InContextClassifier.from_context_set(run).predict_proba_images([tmp_path / "photo.jpg"])
    assert name == sorted(NAMES)[expected.argmax()]
    assert float(probability) == pytest.approx(expected.max(), abs=1e-4)


@pytest.mark.parametrize("value", [1.05, np.nan])
def test_a_file_that_computes_something_else_is_not_left(tmp_path, run, file, capsys, monkeypatch, value):
    model = onnx.load(file)
    for tensor in model.graph.initializer:  # the numbers of one large matrix
        numbers = onnx.numpy_helper.to_array(tensor)
        if numbers.dtype == np.float32 and numbers.size > 10_000:
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers * np.float32(value), tensor.name))
            break
    monkeypatch.setattr(onnx_file, "to_onnx", lambda deployed, metadata: model)
    output = tmp_path / "classifier.onnx"
    output.write_text("old")
    line = refused(capsys, "export", run, f"--onnx={output}")
    pattern = (
        r"error: --onnx: in onnxruntime [\d.]+ the probabilities differ from PyTorch's by .*, more than 0\.0001\. "
    )
    assert re.match(pattern, line)
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_temperature_and_kind_of_numbers(run):
    context = ContextSet.load(run)
    kept = fit_novelty(context.embeddings)
    calibration = Calibration(2.0, torch.rand(5), kept, torch.rand(5))
    plain, warm = (
        DeployedClassifier(InContextClassifier.from_context_set(replace(context, calibration=said))).eval()
        for said in (None, calibration)
    )
    assert (plain.temperature, warm.temperature) == (1.0, 2.0)
    squares = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8))
    with torch.no_grad():
        expected = plain(squares)
        torch.testing.assert_close(plain(squares / 255), expected)
        torch.testing.assert_close(warm(squares), expected.sqrt() / expected.sqrt().sum(1, keepdim=True))


def test_what_is_not_written(tmp_path, run, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "MAX_BYTES", 2**20)
        line = refused(capsys, "export", run, "--onnx")
        assert re.match(r"error: --onnx: backbone, TabICL and context are 0\.0 GiB, and an ONNX file holds 2 GiB", line)
    found = util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr("synthicl.core.assets.find_spec", lambda name: None if name == "onnxscript" else found(name))
        line = refused(capsys, "export", run, "--onnx")
        assert line.startswith("error: --onnx: needs packages that are not installed (onnxscript). Install them with: ")
    context = ContextSet.load(run)
    context.class_names = [f"class {number}" for number in range(12)]
    context.embeddings = torch.cat([context.embeddings, context.embeddings[:2] + 0.1])
    context.labels, context.images = torch.arange(12), None
    context.save(tmp_path / "many")
    line = refused(capsys, "export", tmp_path / "many", "--onnx")
    assert line.startswith(
        "error: The context cannot be kept: there are 12 classes, and TabICL tells 10 apart at once."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["many"]


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: dinov2.build("s", False, embed_dim=48, depth=2, num_heads=3), 28),
        (lambda: dinov2.build("s", True, embed_dim=48, depth=2, num_heads=3), 28),
        (lambda: efficientnet.build("lite0"), 64),
        (mini.mini_conv, 32),
    ],
    ids=["dinov2", "with registers", "efficientnet", "mini_conv"],
)
def test_the_batch_stays_free_in_every_family(build, size):
    torch.manual_seed(0)
    network = build().eval().requires_grad_(False)
    if isinstance(network, timm.models.VisionTransformer):  # built for weights that are loaded: its own are none
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    images = torch.rand(5, 3, size, size)
    expected = network(images)
    free = {0: torch.export.Dim("batch", min=1)}
    traced = torch.export.export(network, (images[:2],), dynamic_shapes=(free,)).module()
    for batch in (images, images[:1]):
        torch.testing.assert_close(traced(batch), expected[: len(batch)], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)
