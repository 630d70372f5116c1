"""docs/extending.md is true: its examples are taken from the page, put together to one package, and its commands run."""

import contextlib
import io
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from synthicl.backbones import create_backbone
from synthicl.cli.main import evaluate, train
from synthicl.coresets import CORESETS
from synthicl.data.datasets import dataset_spec
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import OBJECTIVES
from synthicl.studies.results import Results

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line.removeprefix(".venv/bin/python ") for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
QUICK = {
    "train.py": [
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
        "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu",
        "--model.grow_every=1",
        "--tabicl.preprocessing=rotated4",
        "--tabicl.n_estimators=1",
        "--random_draws=2",
    ],
    "evaluate.py": [],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of the page's package, installed as far as Python's import system goes."""
    folder = tmp_path_factory.mktemp("beside") / "my-package"
    (folder / "my_package").mkdir(parents=True)
    (folder / "my_package" / "__init__.py").touch()
    project = ""
    for kind, text in BLOCKS:
        name, _, content = text.removeprefix("# ").partition("\n")
        if kind == "toml":
            assert name == "pyproject.toml"
            project += content
        elif kind in {"python", "yaml"}:
            (folder / name).write_text(content)
    stated = tomllib.loads(project)["project"]
    info = folder / "my_package-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {stated['name']}\nVersion: {stated['version']}\n")
    lines = []
    for group, entries in stated["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(ROOT)
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def run(package):
    """A function that runs the command of the page that has some words in it, and returns where its results went."""
    outputs = package.parent / "outputs"

    def run_one(words, *flags):
        (command,) = [command for command in COMMANDS if words in command]
        program, *args = shlex.split(command)
        if program == "-m":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", args)
                runpy.run_module(args[0], run_name="__main__")
            return outputs
        args = [arg.replace("../my-package", str(package)).replace("outputs/", f"{outputs}/") for arg in args]
        args += [*QUICK[program], *flags]
        if program == "train.py":
            args.append(f"--output_dir={outputs}")
        err = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            code = {"train.py": train, "evaluate.py": evaluate}[program](args)
        assert code == 0, err.getvalue()
        return (outputs / "stripes" / "latest").resolve()

    return run_one


@pytest.fixture(scope="module")
def stripes(run):
    """A run on the page's dataset: its folder."""
    return run("--data.name=stripes")


def losses(folder):
    return [event.value for event in EventAccumulator(str(folder)).Reload().Scalars("train/loss")]


def test_dataset(stripes):
    dataset = dataset_spec("stripes").load(Path(), 0)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 90, "val": 36, "test": 54}
    rows = Results.load(stripes).select(split="test", context="synthetic", probe="tabicl")
    assert rows and all(row.run["dataset"] == "stripes" for row in rows)


def test_dataset_with_a_file_of_its_own(run):
    folder = run("--model.ipc=2")
    assert len(list((folder / "images").rglob("*.png"))) == 6
    assert "flip: 0.0" in (folder / "config.yaml").read_text()


def test_backbone(run):
    run("-m my_package.random_filters")
    assert create_backbone("random_filters")(torch.rand(2, 3, 32, 32)).shape == (2, 256)
    folder = run("--backbone.name=random_filters")
    assert {row.backbone for row in Results.load(folder).rows.values()} == {"random_filters"}


def test_objective(run):
    first, second = losses(run("--model.objective=mean_matching"))
    assert 0 < second < first


def test_objective_does_not_wait_for_the_device(package):
    """There are no values to wait for on the meta device: whoever asks for one gets an error."""
    rows = LabelledEmbeddings(torch.empty(6, 4, device="meta"), torch.empty(6, device="meta", dtype=torch.long))
    loss = OBJECTIVES.get("mean_matching")()(rows, rows, 3, torch.Generator())
    assert loss.shape == ()


def test_probe(run, stripes):
    folder = run("--probes=tabicl,naive_bayes", "--contexts=centroid")
    assert folder == stripes
