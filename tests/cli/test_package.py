"""What is installed from a wheel, used outside the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from synthicl.cli import main as module
from synthicl.cli.main import TRAINING, main, studies
from synthicl.core.configuration import CONFIGS
from synthicl.studies import STUDIES

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "lightning", "kornia", "timm", "tabicl", "sklearn", "matplotlib"}


def test_a_wheel_runs_outside_the_checkout(tmp_path):
    """In an empty environment that sees the packages of this one, but not its checkout."""

    def run(*command):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        return subprocess.run(
            command,
            cwd=tmp_path / "elsewhere",
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    (tmp_path / "elsewhere").mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (tmp_path / "source").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "source")
    for name in ("synthicl", "configs"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    quiet = ["--no-index", "--no-deps", "--quiet"]
    made = run(*pip, "wheel", *quiet, "--no-build-isolation", f"--wheel-dir={tmp_path}", str(tmp_path / "source"))
    assert made.returncode == 0, made.stderr
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    found = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    # A path in a .pth file does not have its own .pth files read, so an editable install is not seen.
    Path(found, "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = tmp_path.glob("*.whl")
    made = run(*pip, "--python", str(python), "install", *quiet, "--ignore-installed", str(wheel))
    assert made.returncode == 0, made.stderr

    command = str(python.with_name("synthicl"))
    shown = run(command, "--help")
    assert shown.returncode == 0, shown.stderr
    assert {line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ")} == {
        *("fit", "validate", "test", "compare", "scaling", "few-shot", "transfer", "boundary", "icl-vs-gd"),
        *("privacy", "trust", "predict", "demo", "export", "publish"),
    }
    installed = Path(found) / "synthicl" / "configs"
    assert {path.relative_to(installed) for path in installed.rglob("*.yaml")} == {
        path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")
    }
    quick = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"]
    quick += ["--tabicl.preprocessing=rotated4", "--tabicl.n_estimators=1", "--random_draws=1"]
    done = run(command, "fit", "-c", "data/digits.yaml", *quick, "--trainer.accelerator=cpu", "--output_dir=runs")
    assert done.returncode == 0, done.stderr
    made = tmp_path / "elsewhere" / "runs" / "digits" / "latest"
    assert {"results.json", "report.html", "images", "context.safetensors"} <= {path.name for path in made.iterdir()}
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["fit", "-c", "data/digitz"], 2),
        (["fit", "--data.name=digitz"], 2),
        (["fit", "-c", "data/digits", "--ckpt_pat=x"], 2),
        (["compare", "digitz"], 2),
        (["distill"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_needs_no_torch_answers_at_once(args, code):
    """In a process of its own; seconds of its processor, as others may keep the machine busy."""
    program = (
        "import sys, time\n"
        "from synthicl.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        f"assert not {HEAVY!r} & sys.modules.keys(), 'heavy'\n"
        "assert time.process_time() < 1, time.process_time()\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    lines = done.stderr.split("\n")
    assert [line.partition(":")[0] for line in lines if line] == ([] if code == 0 else ["error"])


def test_help_names_the_commands_that_there_are(capsys):
    assert sorted(studies()) == sorted(STUDIES.names())
    assert all(studies().values())
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "\n  demo         Serve a page at http://127.0.0.1:7860 that shows" in out
    assert all(f"\n  {name} " in out for name in [*TRAINING, *STUDIES.names(), "predict", "demo", "export"])


def test_an_unknown_command_is_named(capsys):
    assert main(["distill"]) == 2
    assert capsys.readouterr().err.startswith("\nerror: distill: unknown command. Choose one of: fit, validate, test,")


def test_a_command_goes_where_train_and_evaluate_go(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_train", lambda args: asked.append(("train", args)))
    monkeypatch.setattr(module, "_evaluate", lambda args: asked.append(("evaluate", args)))
    for command in ("test", "few-shot", "predict", "demo", "export"):
        assert main([command, "x"]) == 0
    assert asked == [
        ("train", ["test", "x"]),
        *(("evaluate", [command, "x"]) for command in ("few-shot", "predict", "demo", "export")),
    ]
