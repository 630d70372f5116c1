"""The command lines, in process where that is possible: what people type, what they get, what they read."""

import contextlib
import errno
import io
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

from synthicl import InContextClassifier
from synthicl.artefact.context_set import ContextSet
from synthicl.backbones import create_backbone
from synthicl.cli.evaluate import program
from synthicl.cli.fit import HYPERPARAMETERS
from synthicl.cli.main import evaluate, train
from synthicl.core.settings import of_subject
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.checkpoint_files import seal
from synthicl.embeddings.bank import embed_clean
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.score import score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.results import Results
from synthicl.tabicl.checkpoint import BUNDLED, MINI
from synthicl.tabicl.deployment import Deployment

ROOT = Path(__file__).parents[2]
DIGITS = ["-c", str(ROOT / "configs/data/digits.yaml")]
QUICK = [
    "--trainer.max_steps=12",
    "--trainer.val_check_interval=4",
    "--trainer.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--model.images.grow_every=3",
    "--tabicl.preprocessing=rotated8",
    "--tabicl.n_estimators=2",
    "--random_draws=3",
]


LINEAR = [
    "--trainer.callbacks+=synthicl.distillation.callbacks.probe_evaluation.ProbeEvaluation",
    "--trainer.callbacks.probe=linear",
]


def run(*args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``train.py``, in process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = train(list(args))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run: its folder and what it printed."""
    outputs = tmp_path_factory.mktemp("outputs")
    code, out, err = run("fit", *DIGITS, *QUICK, f"--output_dir={outputs}")
    assert code == 0, err
    return outputs / "digits" / "version_0", out


def test_the_folder_is_the_artefact(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir() if not path.name.startswith("events.")}
    assert names >= {
        *("context.safetensors", "images", "grid.png", "config.yaml", "results.json", "predictions.safetensors"),
        *("README.md", "best_on_val", "checkpoints"),
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert (folder.parent / "latest").resolve() == folder.resolve()
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pickle", ".pt", ".npy", ".npz"}]
    for checkpoint in (folder / "checkpoints").iterdir():
        torch.load(checkpoint, weights_only=True)


def test_what_is_printed(finished):
    folder, out = finished
    assert re.search(r"10 synthetic images, 12 steps, at first [\d.]+ s each", out)
    for word in ("random images (3 draws)", "nearest to class mean", "class means", "synthetic", "all training images"):
        assert word in out
    for word in ("TabICL (8 rotated columns)", "logistic regression", "Accuracy on val in %, 359 queries"):
        assert word in out
    assert "on test" not in out  # nobody chooses by it unasked
    assert out.rstrip().splitlines()[-1].endswith(f"score test: {program()} compare {folder}")


def test_results_use_the_words_of_the_docs(finished):
    rows = json.loads((finished[0] / "results.json").read_text())
    assert {row["context"] for row in rows} == {"random", "centroid", "class_mean", "synthetic", "all"}
    assert {(row["probe"], row["preprocessing"]) for row in rows} == {("tabicl", "rotated8"), ("linear", "")}
    assert {row["split"] for row in rows} == {"val"}
    assert {row["checkpoint"] for row in rows if row["context"] == "synthetic"} == {"last", "best_on_val"}
    assert {row["n_query"] for row in rows} == {359}
    assert all("synthicl fit --config=" in row["made_by"] for row in rows)
    assert all("--config=data/digits.yaml" in row["made_by"] and str(ROOT) not in row["made_by"] for row in rows)
    assert {row["n_context"] for row in rows} == {10, 899}
    assert len([row for row in rows if row["context"] == "random"]) == 3 * 2


def test_each_set_is_calibrated_with_its_own_rows(finished):
    kept = [ContextSet.load(folder).calibration for folder in (finished[0], finished[0] / "best_on_val")]
    assert [each.images for each in kept] == [359, 359]
    assert torch.equal(kept[0].novelties, kept[1].novelties)
    same = torch.equal(*(ContextSet.load(folder).embeddings for folder in (finished[0], finished[0] / "best_on_val")))
    assert torch.equal(kept[0].nonconformity, kept[1].nonconformity) == same
    assert f"{kept[0].temperature:.2f}, and of each image" in (finished[0] / "README.md").read_text()


def test_images_embedded_again_give_the_stored_rows_and_the_stored_accuracy(finished):
    folder, _ = finished
    context = ContextSet.load(folder)
    dataset = ImageFolder(folder / "images")
    assert dataset.classes == context.class_names
    pixels = torch.stack([pil_to_tensor(Image.open(path).convert("RGB")) for path, _ in dataset.samples])
    assert torch.equal(pixels, context.images)
    backbone = create_backbone("mini")
    embeddings = backbone(pixels / 255)
    torch.testing.assert_close(embeddings, context.embeddings, rtol=1e-5, atol=1e-5)
    val = ImageDataModule("digits").splits["val"]
    probe = TabICLProbe(Deployment(context.preprocessing, "mini", MINI))
    probe.fit(LabelledEmbeddings(embeddings, torch.tensor([label for _, label in dataset.samples])))
    queries = embed_clean(backbone, val, 32)
    _, measured = score(probe, queries, context.labels.unique().numpy())
    (row,) = Results.load(folder).select(context="synthetic", checkpoint="last", probe="tabicl", split="val")
    assert measured["accuracy"] == pytest.approx(row.accuracy, abs=1 / 359 + 1e-9)


def test_best_on_val_is_the_best_validation(finished):
    folder, _ = finished
    events = EventAccumulator(str(folder)).Reload()
    accuracies = {event.step: event.value for event in events.Scalars("val/tabicl_accuracy")}
    best = max(accuracies.values())
    metadata = ContextSet.load(folder / "best_on_val").metadata
    assert accuracies[metadata["steps"] - 1] == best
    (row,) = Results.load(folder).select(context="synthetic", checkpoint="best_on_val", probe="tabicl", split="val")
    assert row.accuracy == pytest.approx(best, abs=1e-6)


def test_tensorboard_shows_curves_images_and_settings(finished):
    events = EventAccumulator(str(finished[0])).Reload()
    scalars = {"train/loss", "train/lr", "train/resolution", "train/seconds", "val/tabicl_accuracy"}
    scalars |= {"val/linear_accuracy", "val/tabicl_cross_entropy", "val/tabicl_seconds"}
    assert {tag for tag in events.Tags()["scalars"] if not tag.startswith("hparams/")} == scalars  # no epoch
    assert len(events.Images("synthetic images")) == 3
    hparams = events.PluginTagToContent("hparams")
    shown = HParamsPluginData.FromString(hparams["_hparams_/session_start_info"]).session_start_info.hparams
    assert set(shown) == {*HYPERPARAMETERS, "tabicl.preprocessing", "model.objective"} and len(shown) < 20
    assert shown["model.objective"].string_value == "linear gradient matching + TabICL in the loop"
    assert shown["data.name"].string_value == "digits" and shown["trainer.max_steps"].number_value == 12


def test_what_the_distillation_took_stands_beside_what_it_reached(finished):
    logged = EventAccumulator(str(finished[0])).Reload().Scalars("train/seconds")[-1].value
    rows = Results.load(finished[0]).select(context="synthetic", split="val")
    assert {row.measures["selection_seconds"] for row in rows} == {logged}
    assert "to make it" in (finished[0] / "report.html").read_text(encoding="utf-8")


def test_evaluate_adds_what_the_table_lacks_and_repeats_nothing(finished, capsys):
    folder, _ = finished
    before = Results.load(folder)
    assert evaluate(["compare", str(folder), "--probes=tabicl,knn", "--contexts=random,all,herding,neighbours"]) == 0
    after = Results.load(folder)
    assert before.rows.items() <= after.rows.items()  # the seconds too: nothing was measured again
    added = [row for key, row in after.rows.items() if key not in before.rows]
    new_on_val = {row.context for row in added if row.probe == "tabicl" and row.split == "val"}
    assert new_on_val == {"herding", "neighbours"}
    assert all("synthicl compare" in row.made_by for row in added)
    out = capsys.readouterr().out
    assert "synthetic - herding" in out
    assert "\ntest is scored: choose nothing by it.\n" in out
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Seconds to fit + to predict 539 queries" in page
    assert "herding" in page and "data:image/png;base64" in page and "config.yaml" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # opens without a network
    for suffix in ("png", "svg"):
        assert (folder / "figures" / f"compare-contexts.{suffix}").stat().st_size > 1000


def test_evaluate_a_context_set_without_its_run(finished, tmp_path, capsys):
    shutil.copytree(finished[0] / "best_on_val", tmp_path / "set")
    assert evaluate(["compare", str(tmp_path / "set"), "--probes=linear", "--contexts=class_mean"]) == 0
    assert {row.context for row in Results.load(tmp_path / "set").rows.values()} == {"class_mean", "synthetic"}
    assert "class means (no images)" in capsys.readouterr().out


def test_images_that_changed_under_a_folder_make_its_results_void(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    found = ContextSet.load(tmp_path / "run")
    found.embeddings = found.embeddings.flip(0)
    found.save(tmp_path / "run")
    assert evaluate(["compare", str(tmp_path / "run"), "--probes=linear", "--contexts=class_mean"]) == 0
    rows = Results.load(tmp_path / "run").rows.values()
    assert {(row.context, row.probe) for row in rows} == {("class_mean", "linear"), ("synthetic", "linear")}


def test_results_of_other_images_are_kept_aside(finished, tmp_path, capsys):
    shutil.copytree(finished[0], tmp_path / "run")
    before = (tmp_path / "run/results.json").read_bytes()
    found = ContextSet.load(tmp_path / "run")
    found.embeddings = found.embeddings.flip(0)
    found.save(tmp_path / "run")
    assert evaluate(["compare", str(tmp_path / "run"), "--probes=linear", "--contexts=class_mean"]) == 0
    assert (tmp_path / "run/old-results.json").read_bytes() == before
    assert (tmp_path / "run/old-predictions.safetensors").is_file()
    assert "results.json: of other images or weights than now. Kept as old-results.json." in capsys.readouterr().out


def test_another_checkpoint_under_the_same_name_is_scored_again(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    checkpoint = tmp_path / "own.ckpt"
    command = [
        "compare",
        str(tmp_path / "run"),
        "--probes=tabicl",
        "--contexts=class_mean",
        f"--checkpoints={checkpoint}",
    ]
    found = []
    for name in ("mini", "mini_1"):
        shutil.copy(BUNDLED[name], checkpoint)
        assert evaluate(command) == 0
        rows = Results.load(tmp_path / "run").select(probe=f"tabicl {checkpoint}", context="class_mean", split="val")
        found.append([row.cross_entropy for row in rows])
    assert len(found[0]) == len(found[1]) == 1 and found[0] != found[1]


def test_evaluation_stays_with_the_run_that_latest_pointed_to(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "version_0")
    (tmp_path / "latest").symlink_to("version_0")
    assert of_subject(str(tmp_path / "latest"), {})[0] == tmp_path / "version_0"


def test_a_run_that_has_not_ended_says_so(finished, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    shutil.copy(finished[0] / "config.yaml", tmp_path / "run")
    assert evaluate(["compare", str(tmp_path / "run")]) == 2
    assert "this run has not come to its end" in (err := capsys.readouterr().err)
    assert f"synthicl fit --ckpt_path={tmp_path}/run/checkpoints/last.ckpt" in err


def test_a_run_is_evaluated_on_its_own_split(tmp_path, capsys):
    settings = ["--trainer.max_steps=4", "--data.split_seed=3", f"--output_dir={tmp_path}"]
    code, out, err = run("fit", *DIGITS, *QUICK, *settings)
    assert code == 0, err
    assert "the bundled backbones were trained on the training digits of --data.split_seed=0" in out
    folder = tmp_path / "digits/version_0"
    assert ContextSet.load(folder).metadata["split_seed"] == 3
    assert "split seed 3" in (folder / "README.md").read_text()
    shutil.copytree(folder / "best_on_val", tmp_path / "set")
    before = (folder / "results.json").read_bytes()
    expected = {row["run"]["split_seed"] for row in json.loads(before)}
    assert expected == {3}
    for subject in (folder, tmp_path / "set"):
        flags = ["--probes=linear", "--contexts=class_mean", "--splits=val"]
        assert evaluate(["compare", str(subject), *flags]) == 0
    assert (folder / "results.json").read_bytes() == before  # the same images: nothing was scored again
    rows = [Results.load(place).select(probe="linear", context="class_mean") for place in (folder, tmp_path / "set")]
    assert len({(row.split, row.fingerprint) for found in rows for row in found}) == 1
    assert evaluate(["compare", str(folder), "--splits=train"]) == 2
    assert "--splits=train: unknown. Choose among: val, test." in capsys.readouterr().err
    assert evaluate(["compare", str(folder), "--data.split_seed=4"]) == 2
    assert f"--data.split_seed=4: {folder} has its own" in capsys.readouterr().err


def test_a_dataset_alone_on_another_split(tmp_path, capsys):
    flags = ["--tabicl.preprocessing=raw", "--contexts=class_mean", "--probes=linear", f"--output={tmp_path}"]
    for seed in (0, 5):
        assert evaluate(["compare", "digits", f"--data.split_seed={seed}", *flags]) == 0
    assert "results.json: of other images or weights than now" in capsys.readouterr().out
    assert evaluate(["compare", "digits", "--data.split_seed=x", *flags]) == 2
    assert "data.split_seed" in capsys.readouterr().err


def test_classes_that_changed_are_refused(finished, tmp_path, image_folder, capsys):
    root = image_folder({f"{label}": 5 for label in [*range(10), "new"]})
    shutil.copytree(finished[0], tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("name: digits", "name: folder", 1))
    assert evaluate(["compare", str(tmp_path / "run"), f"--data.root={root}"]) == 2
    assert "its classes are not those of" in (err := capsys.readouterr().err)
    assert "['new']" in err


def test_other_weights_of_tabicl_do_not_classify(finished, capsys):
    images = str(finished[0] / "images")
    assert evaluate(["predict", str(finished[0]), images, f"--tabicl.model_path={BUNDLED['mini_1']}"]) == 2
    assert "are not those the context set was made with" in capsys.readouterr().err


def test_results_elsewhere_leave_the_folder_as_it_is(finished, tmp_path):
    before = {path: path.read_bytes() for path in finished[0].rglob("*") if path.is_file()}
    flags = [f"--output={tmp_path}", "--probes", "linear", "--contexts", "class_mean,centroid"]
    assert evaluate(["compare", str(finished[0]), *flags]) == 0
    assert {path: path.read_bytes() for path in finished[0].rglob("*") if path.is_file()} == before
    assert (tmp_path / "report.html").exists()


def test_evaluate_says_what_cannot_be_scored(finished, tmp_path, capsys):
    InContextClassifier().fit(np.eye(4), [0, 0, 1, 1]).save(tmp_path / "vectors")
    for args, message in (
        (["digits", "--contexts=class_mean", "--probes=linear_reference"], "compare: there is nothing to score"),
        ([str(tmp_path / "vectors")], "does not say what it was made of (no backbone, dataset)"),
        ([str(finished[0]), f"--checkpoints={tmp_path / 'bad.ckpt'}"], "--checkpoints"),
    ):
        (tmp_path / "bad.ckpt").write_bytes(b"nothing")
        assert evaluate(["compare", *args, *([f"--output={tmp_path}"] if args[0] == "digits" else [])]) == 2
        assert message in capsys.readouterr().err


def test_evaluate_a_dataset_alone(tmp_path, capsys):
    flags = ["--contexts=class_mean,random", "--probes=linear", "--random_draws=2", f"--output={tmp_path}"]
    assert evaluate(["compare", "digits", "--tabicl.preprocessing=raw", "--tabicl.n_estimators=2", *flags]) == 0
    assert {row.context for row in Results.load(tmp_path).rows.values()} == {"class_mean", "random"}
    assert "Accuracy on test" in capsys.readouterr().out


def test_predict_is_a_command(finished, tmp_path, capsys):
    assert evaluate(["predict", str(finished[0]), str(finished[0] / "images"), f"--output={tmp_path / 'p.csv'}"]) == 0
    assert "10 of 10 images classified" in capsys.readouterr().out
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 11
    assert evaluate(["predict", str(finished[0]), str(tmp_path / "gone")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_validate_and_test_score_a_checkpoint(finished):
    folder, _ = finished
    for command, split in (("validate", "val"), ("test", "test")):
        code, out, err = run(command, *DIGITS, *QUICK, f"--ckpt_path={folder}/checkpoints/last.ckpt")
        assert code == 0, err
        assert f"{split}/tabicl_accuracy" in out
        assert ("test is scored: choose nothing by it." in out) == (split == "test")


def test_a_finished_run_resumes_with_flags_that_win(tmp_path):
    assert run("fit", *DIGITS, *QUICK, f"--output_dir={tmp_path}")[0] == 0
    checkpoint = tmp_path / "digits/version_0/checkpoints/last.ckpt"
    code, _, err = run("fit", f"--ckpt_path={checkpoint}", "--trainer.max_steps=16", "--model.lr_schedule=constant")
    assert code == 0, err
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 16
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == ["latest", "version_0"]
    code, _, err = run("fit", f"--ckpt_path={checkpoint}", "--model.objective=ridge")
    assert code == 2
    assert "--model.objective=Ridge(" in err and "the checkpoint was made with 0.1 LinearGradientMatching(" in err
    code, _, err = run("fit", f"--ckpt_path={checkpoint}", "--model.ipc=2")
    assert code == 2
    assert "--model.ipc=2: the checkpoint was made with 1, which cannot change when a run resumes" in err


def test_another_optimiser_runs_and_a_run_cannot_change_it(tmp_path):
    nadam = ["--model.optimizer=NAdam", "--model.optimizer.betas=[0.5, 0.9]"]
    code, _, err = run("fit", *DIGITS, *QUICK, *nadam, "--trainer.max_steps=4", f"--output_dir={tmp_path}")
    assert code == 0, err
    checkpoint = tmp_path / "digits/version_0/checkpoints/last.ckpt"
    code, _, err = run("fit", f"--ckpt_path={checkpoint}", "--trainer.max_steps=8")
    assert code == 0, err
    code, _, err = run("fit", f"--ckpt_path={checkpoint}", "--model.optimizer.betas=[0.9, 0.9]")
    assert code == 2
    assert "--model.optimizer=NAdam(betas=" in err
    assert "the checkpoint was made with NAdam(betas=" in err


def test_a_checkpoint_of_another_objective_is_tested_with_the_settings_of_its_run(tmp_path):
    assert run("fit", *DIGITS, *QUICK, "--model.objective=ridge", f"--output_dir={tmp_path}")[0] == 0
    code, out, err = run("test", *DIGITS, f"--ckpt_path={tmp_path / 'digits/version_0/checkpoints/last.ckpt'}")
    assert code == 0, err
    assert "test/tabicl_accuracy" in out


def test_soft_labels_are_scored_at_validations_as_at_the_end(tmp_path):
    soft = ["--model.objective=ridge", "--model.images.soft_labels=true", *LINEAR]
    code, _, err = run("fit", *DIGITS, *QUICK, *soft, f"--output_dir={tmp_path}")
    assert code == 0, err
    folder = tmp_path / "digits/version_0"
    logged = EventAccumulator(str(folder)).Reload().Scalars("val/linear_accuracy")[-1].value
    (row,) = Results.load(folder).select(context="synthetic", probe="linear", split="val", checkpoint="last")
    assert logged == pytest.approx(row.accuracy, abs=1e-6)


def test_cost_and_another_probe_are_logged_beside_the_accuracy(tmp_path):
    code, out, err = run("fit", *DIGITS, *QUICK, *LINEAR, f"--output_dir={tmp_path}")
    assert code == 0, err
    assert re.search(r"Pyramids, gradients and optimiser state: \d+ MiB; at most 10 views are embedded at once", out)
    folder = tmp_path / "digits/version_0"
    code, _, err = run("fit", f"--ckpt_path={folder / 'checkpoints/last.ckpt'}", "--trainer.max_steps=20")
    assert code == 0, err
    events = EventAccumulator(str(folder)).Reload()
    seconds = [event.value for event in events.Scalars("train/seconds")]
    assert len(seconds) == 5
    assert seconds[0] > 0
    assert seconds == sorted(seconds)  # the run that resumed counts on
    rows = Results.load(folder).select(probe="linear", split="val", checkpoint="last")
    assert events.Scalars("val/linear_accuracy")[-1].value == pytest.approx(rows[0].accuracy)


@pytest.fixture
def start():
    """A function that starts a program in a process group of its own; what still runs at the end of a test is ended."""
    started = []

    def run_program(*command: str, **settings) -> subprocess.Popen:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell ignores Ctrl-C for what it starts in the background, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **settings,
        )
        started.append(process)
        return process

    yield run_program
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def spawn(start):
    """A function that starts ``train.py fit``."""
    return lambda *args: start(sys.executable, str(ROOT / "train.py"), "fit", *args)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)


def state(outputs: Path) -> dict:
    return torch.load(outputs / "digits/version_0/checkpoints/last.ckpt", weights_only=True)


ONLINE = ["--model.objective=lgm", "--model.real.source=online", "--model.views.number=2"]


@pytest.mark.parametrize(
    ("flags", "steps", "tolerance"),
    [
        # TabICL computes in 32 bit: what differs by rounding in 64 bit may differ by rounding in 32 bit behind it.
        (["--model.objective=in_context_lgm"], 12, 1e-6),
        (["--model.objective=in_context_views"], 12, 1e-6),
        (["--model.objective=ridge", "--model.images.soft_labels=true"], 50, 1e-8),
        (ONLINE, 50, 1e-8),
    ],
)
def test_several_processes_equal_one(flags, steps, tolerance, tmp_path, spawn):
    """Images, soft labels and what the objective learns in float64; 10 images on 3 processes do not divide evenly."""
    flags = [*DIGITS, *QUICK, *flags, "--trainer.precision=64-true", "--model.views.chunk_size=4"]
    flags += [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}"]
    process = spawn(*flags, "--trainer.devices=3", f"--output_dir={tmp_path / 'many'}")
    code, _, err = run("fit", *flags, f"--output_dir={tmp_path / 'one'}")
    assert code == 0, err
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert (tmp_path / "many/digits/version_0/results.json").exists()
    one, many = state(tmp_path / "one"), state(tmp_path / "many")
    assert one["global_step"] == many["global_step"] == steps
    assert one["state_dict"].keys() == many["state_dict"].keys()
    for name, level in one["state_dict"].items():
        torch.testing.assert_close(many["state_dict"][name], level, rtol=0, atol=tolerance)
    for key, moment in one["optimizer_states"][0]["state"].items():
        other = many["optimizer_states"][0]["state"][key]
        torch.testing.assert_close(other["exp_avg"], moment["exp_avg"], rtol=100 * tolerance, atol=tolerance / 1e4)


def test_two_nodes_started_by_torchrun_give_the_gradient_of_one_process(tmp_path, start):
    """In float32, after a step with several levels; Adam's first moment is a tenth of its gradient."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [*DIGITS, *QUICK, *ONLINE, "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    flags += ["--model.images.parameterisation=pixels", "--model.views.chunk_size=3", "--trainer.devices=1"]
    code, _, err = run("fit", *flags, f"--output_dir={tmp_path / 'one'}")
    assert code == 0, err
    nodes = []
    for rank in (0, 1):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
        command += [f"--node_rank={rank}", "--master_addr=127.0.0.1", f"--master_port={port}", str(ROOT / "train.py")]
        command += ["fit", *flags, "--trainer.num_nodes=2", f"--output_dir={tmp_path / 'two'}"]
        nodes.append(start(*command))
    for node in nodes:
        _, err = node.communicate(timeout=240)
        assert node.returncode == 0, err
    one, two = (state(tmp_path / name)["optimizer_states"][0]["state"] for name in ("one", "two"))
    for key, moment in one.items():
        assert len(two[key]["exp_avg"]) == 10
        difference = (two[key]["exp_avg"] - moment["exp_avg"]).norm()
        assert difference <= 1e-6 * moment["exp_avg"].norm()


def test_a_lost_process_ends_the_run_and_its_checkpoint_resumes_with_another_number(tmp_path, spawn):
    process = spawn(*DIGITS, *QUICK, f"--output_dir={tmp_path}", "--trainer.devices=2", "--trainer.max_steps=5000")
    checkpoint = tmp_path / "digits/version_0/checkpoints/last.ckpt"
    wait_for(checkpoint, process)
    (other,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(other, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: another process of this run was lost. A run resumes with --ckpt_path=PATH, on any devices." in err
    assert "Traceback" not in err
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    code, _, err = run("fit", f"--ckpt_path={checkpoint}", f"--trainer.max_steps={step + 4}", "--trainer.devices=1")
    assert code == 0, err
    assert torch.load(checkpoint, weights_only=True)["global_step"] == step + 4


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, 143, "Terminated.")]
)
def test_interruption_leaves_a_whole_checkpoint(number, code, line, tmp_path, spawn):
    process = spawn(*DIGITS, *QUICK, f"--output_dir={tmp_path}", "--trainer.max_steps=100000")
    checkpoint = tmp_path / "digits/version_0/checkpoints/last.ckpt"
    wait_for(checkpoint, process)
    process.send_signal(number)
    try:
        _, err = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:  # Python drops what is raised inside a destructor: press Ctrl-C again
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    expected = f"{line} The run resumes from its last checkpoint with synthicl fit --ckpt_path={checkpoint}"
    assert err.rstrip().splitlines()[-1] == expected
    assert torch.load(checkpoint, weights_only=True)["global_step"] % 4 == 0
    assert [path for path in checkpoint.parent.iterdir() if path.suffix != ".ckpt"] == []


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoint = tmp_path / "digits/version_0/checkpoints/last.ckpt"
    write = Path.write_bytes

    def write_once(self, content) -> int:
        if self.name.startswith(".last-") and checkpoint.exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", write_once)
    code, _, err = run("fit", *DIGITS, *QUICK, f"--output_dir={tmp_path}")
    assert code == 2
    assert "the disk is full" in err
    assert str(checkpoint) in err
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.lrr=1"], r"unrecognized arguments: --model\.lrr=1"),
        (["--model.lr=fast"], r'Parser key "model\.lr": .*fast'),
        (
            ["--model.objective=nope"],
            r"--model\.objective=nope: unknown objective\. Choose one of: in_context, in_context_lgm, in_context_views",
        ),
        (["--data.name=nope"], r"--data\.name=nope: unknown\. Choose one of: digits, folder"),
        (["--backbone.name=nope"], r"--backbone\.name=nope: unknown\. Choose one of: .*mini"),
        (["--tabicl.checkpoint=v9"], r"--tabicl\.checkpoint=v9: unknown\. Choose one of: mini, mini_1, v2"),
        (["--tabicl.preprocessing=pca"], r"--tabicl\.preprocessing=pca: unknown\. Choose auto, raw"),
        (["--tabicl.max_queries=0"], r"--tabicl\.max_queries=0: must be at least 1"),
        (["--model.images.size=16"], r"--model\.images\.size=16 is smaller than the backbone's crop of 32 px"),
        (["--ckpt_path=gone.ckpt"], r"--ckpt_path=gone\.ckpt: no such file"),
        (["--trainer.gradient_clip_val=1"], r"--trainer\.gradient_clip_val=1(\.0)?: not possible here\. Leave it out"),
        (["--trainer.precision=bf16-true"], r"--trainer\.precision=bf16-true: not possible here\. Choose 32-true"),
        (["--trainer.strategy=fsdp"], r"--trainer\.strategy=fsdp: not possible here\. Choose auto, ddp"),
        (["--trainer.fast_dev_run=true"], r"--trainer\.fast_dev_run=True: not possible here"),
        (
            ["--trainer.limit_train_batches=4"],
            r"--trainer\.limit_train_batches=4(\.0)?: not possible here\. Leave",
        ),
        (["--trainer.overfit_batches=1"], r"--trainer\.overfit_batches=1(\.0)?: not possible here\. Leave it out"),
        (["--trainer.logger=false"], r"--trainer\.logger=False: not possible here\. Leave it out"),
        (["--trainer.enable_checkpointing=false"], r"--trainer\.enable_checkpointing=False: not possible here"),
        (["--trainer.max_steps=-1"], r"--trainer\.max_steps=-1: must be at least 1"),
        (["-c", "gone.yaml"], r"-c gone\.yaml: no such file"),
        (["-c", "configs/data/gone.yaml"], r"-c configs/data/gone\.yaml: unknown dataset\. Choose one of: digits"),
        (["--ckpt_pat=gone.ckpt"], r"--ckpt_pat: not a setting\. Write its name in full, such as --ckpt_path=VALUE"),
        (["--model.ip=2"], r"unrecognized arguments: --model\.ip=2"),
        (["--trainer.max_steps"], r"--trainer\.max_steps: a value is missing"),
        (
            ["--model.objective=lgm", "--model.lr=1e39"],
            r"The loss became NaN or infinite before step \d+\.",
        ),
        (["--model.optimizer=NAdam", "--model.optimizer.lr=0.1"], r"--model\.optimizer\.lr=0\.1: the learning rate is"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line(flags, message, tmp_path):
    code, _, err = run("fit", *DIGITS, *QUICK, f"--output_dir={tmp_path}", *flags)
    assert code == 2
    assert re.search(message, err)
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1


def test_a_run_that_resumes_keeps_its_best(tmp_path, monkeypatch):
    """Under a relative path, which Lightning takes for another folder once it is whole."""
    monkeypatch.chdir(tmp_path)
    assert run("fit", *DIGITS, *QUICK, "--output_dir=runs")[0] == 0
    path = tmp_path / "runs/digits/version_0/checkpoints/last.ckpt"

    def best():
        callbacks = torch.load(path, weights_only=True)["callbacks"].values()
        (score,) = {state["best_model_score"] for state in callbacks if state.get("monitor") == "val/tabicl_accuracy"}
        return float(score)

    state = torch.load(path, weights_only=True)
    for callback in state["callbacks"].values():
        if callback.get("monitor"):
            callback["best_model_score"] = torch.tensor(0.99)  # no validation will be better
    seal(state)
    torch.save(state, path)
    before = (path.parent / "best.ckpt").read_bytes()
    code, _, err = run("fit", "--ckpt_path=runs/digits/latest/checkpoints/last.ckpt", "--trainer.max_steps=16")
    assert code == 0, err
    assert best() == pytest.approx(0.99)
    assert (path.parent / "best.ckpt").read_bytes() == before


def test_a_run_that_resumes_keeps_its_preprocessing(tmp_path):
    auto = [flag for flag in QUICK if "preprocessing" not in flag]
    narrow = ["--tabicl.candidates=[rotated8,rotated4]", "--tabicl.max_queries=50"]
    code, out, err = run("fit", *DIGITS, *auto, *narrow, f"--output_dir={tmp_path}", "--trainer.max_steps=4")
    assert code == 0, err
    chosen = re.search(r"TabICL preprocessing: (rotated\d), chosen on val", out)[1]
    checkpoint = tmp_path / "digits/version_0/checkpoints/last.ckpt"
    other = {"rotated4": "rotated8", "rotated8": "rotated4"}[chosen]
    code, _, err = run("fit", f"--ckpt_path={checkpoint}", f"--tabicl.preprocessing={other}")
    assert code == 2
    assert f"--tabicl.preprocessing={other}: the checkpoint was made with {chosen}, which cannot change" in err
    code, out, err = run("fit", f"--ckpt_path={checkpoint}", "--trainer.max_steps=8")
    assert code == 0, err
    assert "chosen on val" not in out
    assert ContextSet.load(checkpoint.parents[1]).preprocessing.name == chosen


def test_a_folder_that_another_run_has_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("synthicl.cli.fit.next_version", lambda folder: "version_0")
    (tmp_path / "digits/version_0").mkdir(parents=True)
    (tmp_path / "digits/version_0/config.yaml").write_text("another's")
    code, _, err = run("fit", *DIGITS, *QUICK, f"--output_dir={tmp_path}")
    assert code == 2
    assert re.search(r"error: .*version_0: taken by a run started at the same moment\. Start again\.", err)
    assert (tmp_path / "digits/version_0/config.yaml").read_text() == "another's"


def test_without_a_progress_bar(tmp_path):
    code, out, err = run("fit", *DIGITS, *QUICK, "--trainer.enable_progress_bar=false", f"--output_dir={tmp_path}")
    assert code == 0, err
    assert "10 synthetic images, 12 steps" in out
    assert "it/s" not in out + err


def test_tabicl_in_a_sum_in_a_sum(tmp_path):
    config = tmp_path / "nested.yaml"
    inner = "{class_path: synthicl.objectives.WeightedSum, init_args: {weights: [1], terms: [InContext]}}"
    outer = (
        f"{{class_path: synthicl.objectives.WeightedSum, init_args: {{weights: [1], starts: [0], terms: [{inner}]}}}}"
    )
    config.write_text(
        f"model: {{objective: {outer}}}".replace("InContext", "{class_path: synthicl.objectives.InContext}")
    )
    code, _, err = run("fit", *DIGITS, "-c", str(config), *QUICK, "--trainer.max_steps=2", f"--output_dir={tmp_path}")
    assert code == 0, err


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "run/checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK not really")
    (tmp_path / "run/config.yaml").write_text((ROOT / "configs/data/digits.yaml").read_text())
    code, _, err = run("fit", f"--ckpt_path={path}")
    assert code == 2
    assert f"--ckpt_path={path}: not a checkpoint, or damaged" in err


def test_another_dataset_cannot_take_over_a_run(finished, image_folder):
    root = image_folder({f"{label}": 5 for label in range(10)})
    checkpoint, before = finished[0] / "checkpoints/last.ckpt", (finished[0] / "config.yaml").read_bytes()
    code, _, err = run("fit", f"--ckpt_path={checkpoint}", "--data.name=folder", f"--data.root={root}")
    assert code == 2
    assert "--data.name=folder: the checkpoint was made with digits, which cannot change" in err
    assert (finished[0] / "config.yaml").read_bytes() == before


def test_a_bad_image_that_another_process_reads_gets_one_line(tmp_path, image_folder):
    root = image_folder({"a": 6, "b": 6})
    (root / "a" / "0.png").write_bytes(b"no image")
    settings = [f"--data.root={root}", "--data.num_workers=1", f"--output_dir={tmp_path / 'out'}", *QUICK]
    data, mini = (str(ROOT / f"configs/{name}.yaml") for name in ("data/folder", "backbone/mini"))
    code, _, err = run("fit", "-c", data, "-c", mini, *settings, "--model.real.bank_views=0")
    assert code == 2
    assert re.search(r"^error: .*0\.png: not a readable image", err, re.MULTILINE)
    assert "Traceback" not in err


def test_the_configuration_of_a_run_starts_a_new_one(finished):
    import yaml

    assert yaml.safe_load((finished[0] / "config.yaml").read_text())["ckpt_path"] is None


def test_names_that_scripts_rely_on(finished):
    import synthicl

    assert len(synthicl.ContextSet.load(finished[0]).labels) == 10
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        synthicl.Nothing  # noqa: B018


def test_no_dataset_is_said(tmp_path):
    code, _, err = run("fit", f"--output_dir={tmp_path}")
    assert code == 2
    assert "data.name" in err


def test_evaluate_says_what_is_wrong(tmp_path, capsys):
    assert evaluate(["compare", str(tmp_path)]) == 2
    expected = "neither a folder with a context set (context.safetensors, made by a finished run) nor a dataset. Name a"
    assert expected in capsys.readouterr().err
    assert evaluate(["compare", "digitz"]) == 2
    assert "or one of: digits, folder, groceries" in capsys.readouterr().err


def test_evaluate_names_flags_that_it_takes(finished, tmp_path, capsys):
    for flag in ("backbone.weights", "tabicl.model_path"):
        assert evaluate(["compare", str(finished[0]), f"--{flag}={tmp_path / 'gone'}"]) == 2
        assert f"Supply it with --{flag}=PATH." in capsys.readouterr().err
    assert evaluate(["compare", str(finished[0]), "--nope=1"]) == 2
    assert "--nope" in capsys.readouterr().err
    assert evaluate(["compare", str(finished[0]), "--backbone.name=mini_conv"]) == 2
    assert "has its own, which is what is scored. Leave it out." in capsys.readouterr().err


def test_imagenette_runs_on_miniature_files(tmp_path, write_image):
    """The real layout and formats, only small: JPEG folders, an official .pth, a checkpoint in tabicl's format."""
    from synthicl.backbones.models import dinov2
    from synthicl.data.datasets.imagenette import CLASSES

    state = dinov2.build("s", registers=False).state_dict() | {"mask_token": torch.zeros(1, 384)}
    generator = torch.Generator().manual_seed(0)
    official = {name: 0.02 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    torch.save(official, tmp_path / "dinov2_vits14_pretrain.pth")
    for number, wnid in enumerate(CLASSES):
        for split, count in (("train", 4), ("val", 2)):
            for index in range(count):
                path = tmp_path / "imagenette2-160" / split / wnid / f"{wnid}_{index}.JPEG"
                write_image(path, size=(30 + number, 20), seed=10 * number + index)
    code, out, err = run(
        "fit",
        *("-c", str(ROOT / "configs/data/imagenette-160.yaml"), *QUICK, f"--output_dir={tmp_path / 'outputs'}"),
        *(f"--data.root={tmp_path}", "--data.num_workers=0", "--model.images.size=64", "--model.views.crop_size=56"),
        *("--backbone.name=dinov2_vits14", f"--backbone.weights={tmp_path}/dinov2_vits14_pretrain.pth"),
        *(f"--tabicl.model_path={MINI}", "--trainer.max_steps=4"),
        *("--model.views.number=1", "--model.real.bank_views=1"),
        "--tabicl.preprocessing=rotated4",
    )
    assert code == 0, err
    context = ContextSet.load(tmp_path / "outputs/imagenette-160/latest")
    assert context.class_names[0] == "tench"
    assert (tmp_path / "outputs/imagenette-160/latest/images/English springer/000.png").exists()
    assert "synthetic" in out


def test_threads_do_not_spin_while_they_wait():
    """Asked of a fresh process: OpenMP reads it once, when torch is loaded."""
    program = "import os, synthicl; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    cases = (
        ({}, "passive 1000"),
        ({"GOMP_SPINCOUNT": "5"}, "passive 5"),
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
    )
    for given, expected in cases:
        environment = {name: value for name, value in os.environ.items() if "OMP_" not in name} | given
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_is_free_is_kept_for_the_next_step():
    """Asked of a fresh process: what it holds after 200 MiB were used and freed."""
    program = (
        "import synthicl, numpy as np\n"
        "def held(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20\n"
        "before = held(); np.ones(25 * 2**20).sum(); print(held() - before)"
    )
    kept = []
    for given in ({}, {"MALLOC_TRIM_THRESHOLD_": "131072"}):
        environment = {name: value for name, value in os.environ.items() if "MALLOC_" not in name} | given
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        kept.append(float(done.stdout))
    assert kept[0] > 190
    assert kept[1] < 20


PROGRAMS = [path for place in (".", "scripts", "benchmarks") for path in ROOT.glob(f"{place}/*.py")]


@pytest.mark.parametrize("path", [path for path in PROGRAMS if "__main__" in path.read_text(encoding="utf-8")], ids=str)
def test_nothing_that_is_run_loads_torch_before_it_is_set(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(
        line for line in lines if line.startswith(("import torch", "import synthicl", "from synthicl", "from runs"))
    )
    assert not first.startswith("import torch"), first
