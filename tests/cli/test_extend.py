"""``fit --extend``: a finished run gets further classes, from the command line to what can be done with the new run."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from synthicl.artefact.context_set import ContextSet
from synthicl.cli.command_line import expand, settings, split
from synthicl.cli.fit import DistillCLI
from synthicl.cli.main import evaluate, train
from synthicl.core.errors import UserError
from synthicl.core.settings import of_run
from synthicl.distillation.distiller import Distiller

QUICK = [
    "--trainer.max_steps=12",
    "--trainer.val_check_interval=3",
    "--trainer.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--model.images.grow_every=4",
    "--tabicl.n_estimators=1",
    "--random_draws=1",
]
LAST = "folder/version_0/checkpoints/last.ckpt"
VIEWS = ["--model.objective=in_context_views", "--model.real.bank_views=1"]


def run(*args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``train.py fit``, in process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = train(["fit", *args])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_image):
    """A run of three classes that looks at clean and augmented images, and folders of further ones."""
    root = tmp_path_factory.mktemp("extend")
    folders = {"own": ("ant", "bee", "cat"), "more": ("asp", "bee", "cow"), "other": ("dog",)}
    for number, (folder, names) in enumerate(folders.items()):
        for label, name in enumerate(names):
            for index in range(6):
                write_image(root / folder / name / f"{index}.png", seed=100 * number + 10 * label + index)
    flags = ["-c", "data/digits", "--data.name=folder", f"--data.root={root / 'own'}", *QUICK, *VIEWS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillCLI, "after_fit", lambda self: None)
        code, _, err = run(*flags, "--tabicl.preprocessing=rotated4", f"--output_dir={root}")
    assert code == 0, err
    return root, root / "folder" / "version_0"


@pytest.fixture(scope="module")
def extended(made):
    """The run with two more classes, and what was printed."""
    root, before = made
    latest = before.parent / "latest"
    code, out, err = run(f"--extend={latest}", f"--data.root={root / 'more'}", f"--output_dir={root / 'extended'}")
    assert code == 0, err
    return root / "extended" / "folder" / "version_0", out


@pytest.fixture
def unscored(monkeypatch):
    """No table at the end of a fit."""
    monkeypatch.setattr(DistillCLI, "after_fit", lambda self: None)


def state(outputs: Path) -> dict:
    """What is optimised, from the last checkpoint of the run in a folder."""
    return torch.load(outputs / LAST, weights_only=True)["state_dict"]


def files(folder: Path, names: list[str]) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in (folder / name).iterdir()}


def test_old_images_and_their_rows_are_as_they_were_byte_for_byte(made, extended):
    for part in ("", "best_on_val"):
        before, after = ContextSet.load(made[1]), ContextSet.load(extended[0] / part)
        assert after.class_names == ["ant", "bee", "cat", "asp", "cow"]
        assert after.labels.tolist() == [0, 1, 2, 3, 4]
        assert after.images[:3].numpy().tobytes() == before.images.numpy().tobytes()
        assert after.embeddings[:3].numpy().tobytes() == before.embeddings.numpy().tobytes()
        assert files(made[1] / "images", before.class_names) == files(extended[0] / part / "images", before.class_names)
        assert after.images[3:].float().std() > 1


def test_it_says_what_it_extends(made, extended):
    out = " ".join(extended[1].split())
    assert "3 images of 3 classes stay as they are; those of 2 new ('asp', 'cow') are optimised" in out
    assert "of all 5 classes, 4 of them further ones of old classes." in out
    assert "3 classes from before" in out
    about = ContextSet.load(extended[0]).metadata
    assert about["frozen"] == 3
    assert about["extends"] in (extended[0] / "README.md").read_text()
    settings = of_run(extended[0])
    assert settings.data.root == made[0] / "own" and settings.data.more == (made[0] / "more",)
    assert yaml.safe_load((extended[0] / "config.yaml").read_text())["extend"] == str(made[1])


def test_it_takes_half_the_steps_unless_told(made, extended, tmp_path):
    def schedule(*flags: str) -> tuple[object, object]:
        found = settings(expand(split([*flags, f"--data.root={made[0] / 'other'}"])[1]))
        return found["trainer.max_steps"], found["model.images.grow_every"]

    assert schedule(f"--extend={made[1]}") == ("6", "2")
    assert schedule(f"--extend={made[1]}", "--trainer.max_steps=5") == ("5", "2")
    assert schedule(f"--extend={extended[0]}") == (6, 2)
    shutil.copytree(made[1], tmp_path / "edited")
    config = tmp_path / "edited" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 12", "max_steps: many"))
    assert schedule(f"--extend={tmp_path / 'edited'}") == ("many", "2")  # for the full parser to refuse
    assert torch.load(extended[0] / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_studies_and_predictions_know_all_classes(made, extended, tmp_path, capsys):
    assert evaluate(["compare", str(extended[0]), "--contexts=all", "--probes=tabicl", f"--output={tmp_path}"]) == 0
    assert "3 classes from before" in " ".join(capsys.readouterr().out.split())
    table = tmp_path / "predictions.csv"
    assert evaluate(["predict", str(extended[0]), str(made[0] / "more" / "cow"), f"--output={table}"]) == 0
    assert table.read_text().splitlines()[0] == "path,prediction,error,ant,asp,bee,cat,cow"


def test_the_preprocessing_is_that_of_the_run_with_its_statistics(made, extended):
    before, after = (ContextSet.load(folder).preprocessing for folder in (made[1], extended[0]))
    assert (after.name, after.n_estimators) == (before.name, before.n_estimators) == ("rotated4", 1)
    assert torch.equal(after.mean, before.mean) and torch.equal(after.projection, before.projection)


def test_it_resumes_where_it_was_and_when_what_it_extends_was_moved(made, extended, tmp_path, monkeypatch, unscored):
    """A run that ends in its fifth step of six has a checkpoint of the third."""
    root, before = made
    moved = shutil.copytree(before, tmp_path / "moved")

    def crash(self, batch, batch_idx, step=Distiller.training_step):
        if self.global_step == 4:
            raise RuntimeError("crash")
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Distiller, "training_step", crash)
        assert run(f"--extend={moved}", f"--data.root={root / 'more'}", f"--output_dir={tmp_path}")[0] == 1
    shutil.rmtree(moved)
    checkpoint = tmp_path / LAST
    code, _, err = run(f"--ckpt_path={checkpoint}")
    assert code == 2 and f"--extend={moved}: not a folder" in err
    code, _, err = run(f"--ckpt_path={checkpoint}", f"--extend={before}")
    assert code == 0, err
    whole, resumed = state(root / "extended"), state(tmp_path)
    assert whole.keys() == resumed.keys() and all(len(level) == 2 for level in whole.values())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_that_was_extended_is_extended_again(made, extended, tmp_path, unscored):
    flags = [f"--extend={extended[0]}", f"--data.root={made[0] / 'other'}", f"--output_dir={tmp_path}"]
    code, _, err = run(*flags, "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--tabicl.preprocessing=pca3")
    assert code == 0, err
    before, after = ContextSet.load(extended[0]), ContextSet.load(tmp_path / "folder/version_0")
    assert after.class_names == [*before.class_names, "dog"]
    assert torch.equal(after.images[:5], before.images) and torch.equal(after.embeddings[:5], before.embeddings)
    assert after.preprocessing.name == "pca3"  # another one is fitted on all training images


def test_images_of_the_old_run_that_are_gone(made):
    root, before = made
    (root / "own").rename(root / "elsewhere")
    try:
        code, _, err = run(f"--extend={before}", f"--data.root={root / 'more'}")
    finally:
        (root / "elsewhere").rename(root / "own")
    assert code == 2
    assert f"folder of images: not found (looked for {root / 'own'})" in err
    assert "--data.root=OLD --data.more=[NEW]" in err


def test_where_old_and_new_images_lie_on_the_command_line(made, tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)

    def written(*args: str) -> list[str]:
        return list(map(str, expand(split([f"--extend={before}", *args])[1])))

    before = made[1]
    half = ["--trainer.max_steps=6", "--model.images.grow_every=2"]
    own = [f"--config={before / 'config.yaml'}", *half, f"--extend={before}"]
    assert written("--data.root=a") == [*own, '--data.more=["a"]']
    assert written("--data.root=a", "--model.lr=1", "--data.root=b") == [*own, "--model.lr=1", '--data.more=["b"]']
    assert written("--data.root=a", "--data.more=[b, c]") == [*own, "--data.root=a", "--data.more=[b, c]"]
    with pytest.raises(UserError, match=r"^--extend=.*: the new images are missing"):
        written()
