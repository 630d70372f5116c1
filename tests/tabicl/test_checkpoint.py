import inspect
import pickle
from pathlib import Path

import pytest
import torch
from huggingface_hub import hf_hub_download
from tabicl import TabICLClassifier

from synthicl.core.errors import UserError
from synthicl.tabicl.checkpoint import HUB, MINI, VERSIONS, check_checkpoint, checkpoint_asset

NAME = VERSIONS["v2"]


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHICL_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def in_hub(hub):
    """A file in the layout of huggingface_hub: the snapshot of a commit links to a blob."""
    repository = hub / "models--jingang--TabICL"
    snapshot = repository / "snapshots" / ("a" * 40) / NAME
    for folder in (snapshot.parent, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "blobs" / "b0b").write_text("weights")
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot.symlink_to("../../blobs/b0b")
    return snapshot


def test_mini_is_bundled():
    assert checkpoint_asset("mini").find() == MINI
    assert not checkpoint_asset("mini").source
    check_checkpoint(MINI)


def test_found_where_huggingface_keeps_it(caches):
    snapshot = in_hub(caches / "hub")
    found = checkpoint_asset("v2").find()
    assert found == snapshot
    assert str(found) == hf_hub_download(HUB, NAME, cache_dir=caches / "hub", local_files_only=True)
    assert checkpoint_asset("v1").find() is None


def test_hf_home_is_looked_at_where_there_is_no_hub_cache(caches, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(caches / "home"))
    assert checkpoint_asset("v2").find() is None
    assert checkpoint_asset("v2").places[0].is_relative_to(caches / "home" / "hub")
    snapshot = in_hub(caches / "home" / "hub")
    assert checkpoint_asset("v2").find() == snapshot


def test_downloads_go_to_our_own_cache(caches):
    asset = checkpoint_asset("v2")
    assert asset.find() is None
    assert asset.places[-1] == caches / "ours" / NAME
    assert asset.source == f"https://huggingface.co/jingang/TabICL/resolve/main/{NAME}"
    asset.places[-1].parent.mkdir()
    asset.places[-1].touch()
    assert checkpoint_asset("v2").find() == asset.places[-1]
    snapshot = in_hub(caches / "hub")
    assert checkpoint_asset("v2").find() == snapshot


def test_a_file_of_ones_own_takes_its_place(caches):
    in_hub(caches / "hub")
    asset = checkpoint_asset("v2", "mine.ckpt")
    assert asset.places == (Path("mine.ckpt"),)
    assert asset.missing_line() == (
        "TabICL checkpoint: not found (looked for mine.ckpt). Supply it with --tabicl.model_path=PATH."
    )


def test_v2_is_what_tabicl_itself_takes_by_default():
    assert inspect.signature(TabICLClassifier).parameters["checkpoint_version"].default == NAME


def test_message_for_an_unknown_checkpoint():
    with pytest.raises(
        UserError, match=r"^--tabicl\.checkpoint=v9: unknown\. Choose one of: mini, mini_1, v2, v1\.1, v1; or"
    ):
        checkpoint_asset("v9")


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def half(path):
    path.write_bytes(MINI.read_bytes()[: MINI.stat().st_size // 2])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("hello"),
        lambda path: path.touch(),
        lambda path: path.mkdir(),
        lambda path: torch.save(torch.zeros(3), path),
        lambda path: torch.save({"model": Bomb(path.with_name("executed"))}, path),
        lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("executed")))),
        half,
    ],
    ids=["text", "empty", "folder", "tensor", "bomb", "bare bomb", "half"],
)
def test_message_for_a_file_that_is_no_checkpoint(tmp_path, write):
    path = tmp_path / "my file.ckpt"
    write(path)
    with pytest.raises(UserError, match=r"^--tabicl\.model_path=.*my file\.ckpt: not a TabICL checkpoint \(.*\)") as it:
        check_checkpoint(path)
    assert "\n" not in str(it.value)
    assert [file.name for file in tmp_path.iterdir()] == ["my file.ckpt"]


def test_message_for_a_checkpoint_of_something_else(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "lightning.ckpt")
    with pytest.raises(UserError, match=r"lightning\.ckpt: not a TabICL checkpoint \(it lacks config\)\."):
        check_checkpoint(tmp_path / "lightning.ckpt")
