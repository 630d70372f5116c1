"""docs/extending.md is true: its examples, put together to one package as they stand there, and its commands run."""

import contextlib
import io
import re
import runpy
import shlex
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from synthicl.backbones import BACKBONES, create_backbone
from synthicl.cli.main import evaluate, train
from synthicl.coresets import CORESETS
from synthicl.data.datasets import DATASETS, dataset_spec
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import OBJECTIVES
from synthicl.probes import PROBES
from synthicl.studies import STUDIES
from synthicl.studies.results import Results
from synthicl.studies.study import Study

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
QUICK = [
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--model.images.grow_every=1",
    "--tabicl.preprocessing=rotated4",
    "--tabicl.n_estimators=1",
    "--random_draws=2",
]


def install(folder, name, groups):
    """Make entry points visible as an installer does."""
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


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
    install(folder, stated["name"], stated["entry-points"])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(ROOT)
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def called(package):
    """A function that runs the command of the page that has some words in it, and more flags after them."""
    outputs = package.parent / "outputs"

    def run(words, *flags, latest=None):
        (command,) = [command for command in COMMANDS if words in command]
        python, program, *args = shlex.split(command)
        assert python == ".venv/bin/python"
        if program == "-m":
            runpy.run_module(*args, run_name="__main__")
            return None
        args = [
            arg.replace("../my-package", str(package)).replace("outputs/stripes/latest", str(latest)) for arg in args
        ]
        if program == "train.py":
            args += [*QUICK, f"--output_dir={outputs}"]
        err = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            code = {"train.py": train, "evaluate.py": evaluate}[program]([*args, *flags])
        assert code == 0, err.getvalue()
        return latest or (outputs / "stripes" / "latest").resolve()

    return run


@pytest.fixture(scope="module")
def stripes(called):
    """The folder of a run on the page's dataset."""
    return called("--data.name=stripes")


def test_dataset(stripes):
    splits = dataset_spec("stripes").load(Path(), 0).splits
    assert {name: len(split) for name, split in splits.items()} == {"train": 90, "val": 36, "test": 54}
    rows = Results.load(stripes).select(split="val", context="synthetic", probe="tabicl")
    assert {row.run["dataset"] for row in rows} == {"stripes"}


def test_dataset_with_a_file_of_its_own(called):
    folder = called("--model.ipc=2")
    assert len(list((folder / "images").rglob("*.png"))) == 6
    assert "flip: 0.0" in (folder / "config.yaml").read_text()


def test_backbone(called):
    called("-m my_package.random_filters")
    assert create_backbone("random_filters")(torch.rand(2, 3, 32, 32)).shape == (2, 256)
    folder = called("--backbone.name=random_filters")
    assert {row.backbone for row in Results.load(folder).rows.values()} == {"random_filters"}


def test_objective(called):
    folder = called("--model.objective=mean_matching")
    first, second = (event.value for event in EventAccumulator(str(folder)).Reload().Scalars("train/loss"))
    assert 0 < second < first
    assert "MeanMatching(scale=10" in Results.load(folder).select(context="synthetic")[0].run["objective"]


def test_objective_does_not_wait_for_the_device(package):
    """There are no values to wait for on the meta device: whoever asks for one gets an error."""
    rows = LabelledEmbeddings(torch.empty(6, 4, device="meta"), torch.empty(6, device="meta", dtype=torch.long))
    assert OBJECTIVES.get("mean_matching")()(rows, rows, 3, torch.Generator()).shape == ()


def test_names_of_objectives_are_listed_with_those_of_other_packages(package, capsys):
    assert train(["fit", "--model.objective=nope"]) == 2
    assert "lgm_views, mean_matching, ridge" in capsys.readouterr().err


def test_probe(called, stripes):
    called("--probes=tabicl,naive_bayes", "--contexts=centroid", latest=stripes)
    rows = Results.load(stripes).select(command="compare", probe="naive_bayes", split="test")
    assert {row.context for row in rows} == {"centroid", "synthetic"}
    assert "naive_bayes" in (stripes / "report.html").read_text()


def test_real_context(called, stripes):
    called("--contexts=outermost,random", latest=stripes)
    rows = Results.load(stripes).select(command="compare", context="outermost", split="test", probe="tabicl")
    assert [row.n_context for row in rows] == [3]
    assert "outermost" in (stripes / "report.html").read_text()


def test_study(called, stripes):
    called("noise", latest=stripes)
    rows = Results.load(stripes).select(command="noise", checkpoint="last")
    assert [row.split for row in rows] == ["test + 0.0 noise", "test + 0.5 noise", "test + 2.0 noise"]
    page = (stripes / "report.html").read_text()
    assert "Disturbed queries" in page and "test + 2.0 noise" in page


def test_a_study_that_shows_nothing(package, stripes, tmp_path, monkeypatch):
    noise = STUDIES.get("noise")
    silent = Study(noise.name, noise.title, noise.compute)
    monkeypatch.setattr(sys.modules["my_package.noise"], "NOISE", silent)
    assert evaluate(["noise", str(stripes), f"--output={tmp_path}"]) == 0
    assert "Disturbed queries" in (tmp_path / "report.html").read_text()


def test_results_of_a_study_that_is_gone_stay_and_are_not_shown(called, stripes, tmp_path, monkeypatch):
    called("noise", f"--output={tmp_path}", latest=stripes)
    monkeypatch.setattr("synthicl.studies.publish.STUDIES", replace(STUDIES, group="synthicl.nothing"))
    called("outermost", f"--output={tmp_path}", latest=stripes)
    assert Results.load(tmp_path).select(command="noise")
    page = (tmp_path / "report.html").read_text()
    assert "outermost" in page and "Disturbed queries" not in page


def test_a_package_that_is_broken_stops_only_who_asks_for_it(stripes, tmp_path, monkeypatch, capsys):
    install(
        tmp_path, "broken", {"synthicl.studies": {"crash": "broken:CRASH"}, "synthicl.objectives": {"lgm": "math:e"}}
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert evaluate(["compare", "nothing"]) == 2
    assert "error: nothing: neither a folder with a context set" in capsys.readouterr().err
    assert evaluate(["crash", str(stripes)]) == 2
    assert "error: study=crash: broken:CRASH of broken cannot be imported (Module" in capsys.readouterr().err
    assert train(["fit", "--model.objective=lgm"]) == 2
    assert "--model.objective=lgm: is in " in capsys.readouterr().err


def test_page_says_where_everything_goes():
    for folder in re.findall(r"`(synthicl/[a-z/]+/|configs/[a-z]+/|tests/[a-z_/]+\.py)`", PAGE):
        assert (ROOT / folder).exists()
    groups = set(re.findall(r"`(synthicl\.\w+)` \|", PAGE))
    assert groups == {registry.group for registry in (DATASETS, BACKBONES, OBJECTIVES, PROBES, CORESETS, STUDIES)}
