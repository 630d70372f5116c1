"""Runs that were moved, published, damaged, ended or did nothing: nothing is lost and nobody is let in."""

import contextlib
import errno
import io
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthicl.artefact.context_set import ContextSet
from synthicl.cli import fit
from synthicl.cli.foreign import check_foreign
from synthicl.cli.main import guarded, main
from synthicl.core.errors import UserError
from synthicl.core.run_folder import check_writable, point_latest
from synthicl.core.settings import of_run
from synthicl.distillation.checkpoint_files import checksum, read_checkpoint, seal

TINY = [
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--model.images.grow_every=1",
    "--tabicl.preprocessing=rotated4",
    "--tabicl.n_estimators=1",
    "--random_draws=1",
]


def call(*args):
    """Exit code, stdout and stderr of ``synthicl``, in process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(args))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", autouse=True)
def not_scored():
    """What is looked at here is there before the table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.DistillCLI, "after_fit", lambda self: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("run")
    code, _, err = call("fit", "-c", "data/digits", *TINY, f"--output_dir={outputs}")
    assert code == 0, err
    return outputs / "digits" / "version_0"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, as of somebody else's."""
    return Path(shutil.copytree(finished, tmp_path / "theirs" / "digits" / "version_0"))


def last(run):
    return run / "checkpoints" / "last.ckpt"


def changed(run, change):
    """Change the configuration of a run."""
    path = run / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    change(tree)
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_moved_run_exports_its_own_best(finished, tmp_path):
    """Another run lies in its old place, whose best is better."""
    old = tmp_path / "a" / "digits" / "version_0"
    shutil.copytree(finished, old)
    moved = shutil.move(old, tmp_path / "moved")
    code, _, err = call("fit", "-c", "data/digits", *TINY, "--model.seed=5", f"--output_dir={tmp_path / 'a'}")
    assert code == 0, err
    best = read_checkpoint(moved / "checkpoints" / "best.ckpt", "")
    for path in (last(moved), moved / "checkpoints" / "best.ckpt"):  # no later validation is better
        state = torch.load(path, weights_only=True)
        for callback in state["callbacks"].values():
            if callback.get("monitor"):
                callback["best_model_score"] = torch.tensor(0.99)
        seal(state)
        torch.save(state, path)
    shutil.rmtree(moved / "best_on_val")
    code, _, err = call("fit", f"--ckpt_path={last(moved)}", "--trainer.max_steps=3")
    assert code == 0, err
    exported = ContextSet.load(moved / "best_on_val")
    assert exported.metadata["seed"] == 0
    assert exported.metadata["steps"] == best["global_step"]
    scores = [
        c["best_model_score"]
        for c in torch.load(last(moved), weights_only=True)["callbacks"].values()
        if "monitor" in c
    ]
    assert torch.tensor(0.99) in [score for score in scores if score is not None]


def test_a_run_whose_old_place_is_gone_and_whose_best_is_lost_resumes(run):
    (run / "checkpoints" / "best.ckpt").unlink()
    code, _, err = call("fit", f"--ckpt_path={last(run)}", "--trainer.max_steps=3")
    assert code == 0, err
    assert ContextSet.load(run / "best_on_val").metadata["steps"] == 3
    assert not [
        value for value in str(torch.load(last(run), weights_only=True)["callbacks"]).split() if "/digits/" in value
    ]


def evil(tree, place, value):
    *path, name = place.split(".")
    for key in path:
        tree = tree[key]
    tree[name] = value


PROBE = "synthicl.distillation.callbacks.probe_evaluation.ProbeEvaluation"
CALLBACK = "lightning.pytorch.callbacks."
FOREIGN = [
    ("trainer.callbacks", [{"class_path": "os.system"}]),
    ("trainer.callbacks", [{"class_path": "planted.Callback"}]),
    ("trainer.callbacks", {"class_path": "planted.Callback"}),
    ("trainer.callbacks", "planted.Callback"),
    ("trainer.callbacks", ["planted.Callback"]),
    ("trainer.callbacks", [{"class_path": "synthicl.planted.Callback"}]),
    ("trainer.callbacks", [{"class_path": "synthicl.core.files.os.Popen"}]),
    ("trainer.callbacks", [{"class_path": "synthicl..planted.Callback"}]),
    ("trainer.callbacks", [{"class_path": CALLBACK + "LambdaCallback", "init_args": {"setup": "planted.setup"}}]),
    ("trainer.callbacks", [{"class_path": CALLBACK + "ModelCheckpoint", "init_args": {"dirpath": "/tmp/elsewhere"}}]),
    ("trainer.callbacks", [{"class_path": CALLBACK + "ModelCheckpoint", "init_args": {"dirpath": "elsewhere"}}]),
    ("trainer.callbacks", [{"class_path": CALLBACK + "ModelCheckpoint", "init_args": {"filename": "../../x"}}]),
    ("trainer.callbacks", [{"class_path": CALLBACK + "ModelCheckpoint", "dict_kwargs": {"dirpath": "/tmp"}}]),
    ("trainer.logger", {"class_path": "planted.Logger"}),
    ("trainer.logger", "planted.Logger"),
    ("trainer.plugins", [{"class_path": "planted.Plugin"}]),
    ("trainer.strategy", {"class_path": "planted.Strategy"}),
    ("trainer.strategy", "planted.Strategy"),
    ("trainer.accelerator", "planted.Accelerator"),
    ("trainer.accelerator", {"class_path": "planted.Accelerator"}),
    ("trainer.profiler", "planted.Profiler"),
    ("trainer.profiler", {"class_path": CALLBACK + "Timer"}),
    ("trainer.default_root_dir", "/tmp/elsewhere"),
    ("trainer.model_registry", "planted.x"),
    ("trainer.max_time", {"class_path": "planted.Time"}),
    ("trainer", "planted.yaml"),
    ("model", "planted.yaml"),
    ("model.objective", "planted.Objective"),
    ("model.objective", "planted.yaml"),
    ("model.objective", {"class_path": "planted.Objective"}),
    ("model.objective", {"class_path": "torch.optim.Adam"}),
    ("model.objective.init_args.terms", ["planted.Objective"]),
    ("model.objective.init_args.terms", [{"class_path": "planted.Objective"}]),
    ("model.objective.init_args.terms", "planted.yaml"),
    ("model.optimizer", "planted.Adam"),
    ("model.optimizer", {"class_path": "planted.Adam"}),
    ("model.optimizer", {"class_path": "torch.optim.adam.planted"}),
    ("model.optimizer", {"class_path": "torch.hub.load"}),
    ("model.images", "planted.yaml"),
    ("model.views", "./planted.yaml"),
    ("model.images.init", "planted.noise"),
    ("model.planted", {"class_path": "planted.X"}),
    ("data.planted", {"class_path": "planted.X"}),
    ("weights_only", False),
    ("include", ["planted.yaml"]),
    ("ckpt_path", "/tmp/planted.ckpt"),
    ("planted.name", 1),
    ("trainer.callbacks+", "planted.Callback"),
]


@pytest.mark.parametrize(("place", "value"), FOREIGN, ids=[f"{place}={value}"[:80] for place, value in FOREIGN])
def test_what_lies_beside_a_checkpoint_runs_no_code(place, value, run, tmp_path, monkeypatch):
    """The package that it names is there, and writes a file when it is imported."""
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "planted.yaml").write_text("class_path: planted.Objective\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def change(tree):
        tree["planted"] = {}
        evil(tree, place, value)
        tree.pop("planted") if not tree["planted"] else None

    path = changed(run, change)
    for command in ("fit", "validate", "test"):
        code, _, err = call(command, f"--ckpt_path={last(run)}")
        assert code == 2, err
        assert str(path) in err and f"name the file yourself: -c {path}" in err and "Traceback" not in err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system [exit]",
        "model: !!python/name:os.system",
        "a: &a [1]\nb: *a",
        "a: &a {x: 1}\nb: {<<: [*a, *a]}",
        "- 1",
        "a: [",
        "\x00",
        "[" * 3000,
    ],
)
def test_tags_and_aliases_are_refused_when_resumed_and_when_evaluated(text, run):
    (run / "config.yaml").write_text(text)
    for command in (("fit", f"--ckpt_path={last(run)}"), ("compare", str(run))):
        code, _, err = call(*command)
        assert code == 2, err
        assert str(run / "config.yaml") in err and "Traceback" not in err


def test_what_a_run_writes_is_let_through_and_what_a_user_names_is_theirs(run, tmp_path):
    def change(tree):
        tree["trainer"]["callbacks"] = [
            {
                "class_path": "synthicl.distillation.callbacks.probe_evaluation.ProbeEvaluation",
                "init_args": {"probe": "linear"},
            },
            {
                "class_path": CALLBACK + "ModelCheckpoint",
                "init_args": {"dirpath": str(run / "more"), "monitor": "val/x"},
            },
            {"class_path": CALLBACK + "LearningRateMonitor", "init_args": {"logging_interval": "step"}},
        ]

    check_foreign(changed(run, change))
    path = changed(run, lambda tree: tree["trainer"].update(callbacks=[{"class_path": "os.system"}]))
    with pytest.raises(UserError, match="is not taken from a file beside a checkpoint"):
        check_foreign(path)
    code, _, err = call("fit", f"--ckpt_path={last(run)}", "-c", str(path))  # the user's own word
    assert code == 2
    assert "is not taken" not in err


def test_a_checkpoint_names_no_class(run, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    state = torch.load(last(run), weights_only=True)
    state["hyper_parameters"] = {"_class_path": "planted.Module", "ipc": 1}
    seal(state)
    torch.save(state, last(run))
    call("validate", f"--ckpt_path={last(run)}")
    assert not (tmp_path / "ran").exists()


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_read(finished, tmp_path, data):
    content = bytearray(last(finished).read_bytes())
    expected = checksum(torch.load(last(finished), weights_only=True))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "flipped.ckpt"
    path.write_bytes(content)
    try:
        found = read_checkpoint(path, "--ckpt_path")
    except UserError as error:
        assert "\n" not in str(error) and "--ckpt_path" in str(error)
    else:
        assert checksum(found) == expected


def test_every_flipped_byte_of_the_numbers_is_refused(run):
    content = last(run).read_bytes()
    level = torch.load(last(run), weights_only=True)["state_dict"]["pyramid.levels.0"].numpy().tobytes()
    start = content.index(level)
    for place in random.Random(0).sample(range(start, start + len(level)), 20):
        flipped = bytearray(content)
        flipped[place] ^= 1
        last(run).write_bytes(flipped)
        with pytest.raises(UserError, match="damaged"):
            read_checkpoint(last(run), "--ckpt_path")
    code, _, err = call("fit", f"--ckpt_path={last(run)}")
    assert code == 2
    assert f"--ckpt_path={last(run)}: damaged: its checksum does not match. Resume from another checkpoint." in err


def test_a_run_without_a_step_is_not_finished(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        # As if the time were over before the first step.
        patch.setattr("lightning.pytorch.loops.fit_loop._FitLoop.done", property(lambda self: True))
        code, _, err = call(
            "fit", "-c", "data/digits", *TINY, "--trainer.max_time=00:00:00:01", f"--output_dir={tmp_path}"
        )
    assert code == 2, err
    assert "ended before its first step" in err
    assert not list(tmp_path.rglob("context.safetensors"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_latest_that_is_the_users_is_left_alone(kind, tmp_path, capsys):
    run = tmp_path / "version_0"
    run.mkdir()
    latest = tmp_path / "latest"
    latest.mkdir() if kind == "folder" else latest.write_text("mine")
    point_latest(run)
    assert latest.is_dir() == (kind == "folder") and not latest.is_symlink()
    assert f"{latest}: is not a link, so it is left as it is." in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "version_0"]


def test_latest_that_points_nowhere_is_replaced(tmp_path):
    (tmp_path / "latest").symlink_to("gone")
    point_latest(tmp_path / "version_3")
    assert (tmp_path / "latest").readlink() == Path("version_3")


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match=r"--output_dir=x: .* cannot be written to \(Read-only file system\)"):
        check_writable(tmp_path / "a" / "b", "--output_dir=x")


@pytest.mark.parametrize("folder", ["none", "empty", "checkpoint", "context"])
def test_what_is_said_of_a_run_that_was_ended_is_true(folder, tmp_path):
    said = {
        "none": "There is no checkpoint yet: start again.",
        "empty": "There is no checkpoint yet: start again.",
        "checkpoint": (
            f"The run resumes from its last checkpoint with synthicl fit --ckpt_path={tmp_path}/checkpoints/last.ckpt"
        ),
        "context": f"The images are finished; synthicl compare {tmp_path} scores them.",
    }
    (tmp_path / "checkpoints").mkdir()
    if folder in ("checkpoint", "context"):
        last(tmp_path).touch()
    if folder == "context":
        (tmp_path / "context.safetensors").touch()
    assert fit.how_to_resume(None if folder == "none" else tmp_path) == said[folder]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_in_one_line(number, code, capsys):
    inherited = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    try:
        assert guarded(lambda: signal.raise_signal(number), "The same command continues where it stopped.") == code
        assert capsys.readouterr().err == "\nTerminated. The same command continues where it stopped.\n"
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


def test_a_terminal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert guarded(lambda: signal.raise_signal(signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_defect_ends_in_one_line_and_a_file(capsys):
    def fail():
        raise ZeroDivisionError("by accident")

    assert guarded(fail) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.startswith(
        "\nerror: a defect of synthicl, not of yours: ZeroDivisionError: by accident. The traceback is in "
    )
    path = Path(err.split("The traceback is in ")[1].split(":")[0])
    assert "by accident" in path.read_text()
    path.unlink()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_disks_that_refuse_get_one_line(number, capsys):
    def fail():
        raise OSError(number, "no", "outputs/x")

    assert guarded(fail) == 2
    assert capsys.readouterr().err.startswith("\nerror: outputs/x: ")


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_nobody_reads_any_more(number, capfd):
    def fail():
        raise OSError(number, "gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.dup2", lambda *_: None)
        assert guarded(fail) == 141


def test_memory_that_is_full_gets_one_line(capsys):
    def fail():
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    assert guarded(fail) == 2
    assert "error: the memory is full" in capsys.readouterr().err


def test_a_full_disk_in_a_thread_is_left_to_who_waits_for_it(capsys):
    def write():
        raise OSError(errno.ENOSPC, "No space left on device")

    def command():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()

    assert guarded(command) == 0
    assert capsys.readouterr().err == ""


def test_more_devices_than_images_is_said_once(tmp_path):
    code, _, err = call("fit", "-c", "data/digits", *TINY, "--trainer.devices=11", f"--output_dir={tmp_path}")
    assert code == 2
    assert err.count("11 devices for 10 images") == 1
    assert list(tmp_path.iterdir()) == []


def test_settings_of_a_run_are_read_as_data(run):
    assert of_run(run).data.name == "digits"
    changed(run, lambda tree: tree.update(random_draws=0))
    with pytest.raises(UserError, match=r"--random_draws=0: must lie between 1 and 10000"):
        of_run(run)
