"""Ids of repositories and what is fetched for them, with the Hub's client replaced."""

import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError

from synthicl.core import assets, hub
from synthicl.core.errors import UserError

ANSWER = Mock(headers={})  # of the Hub, as its errors keep it


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder that is empty, and a Hub that can be reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "reachable", lambda address: True)
    return tmp_path


@pytest.mark.parametrize("name", ["user/name", "a/b", "Me.2/ten-digits_1"])
def test_ids(here, name):
    assert hub.is_repo_id(name) and hub.is_on_hub(name)
    assert not hub.is_on_hub(Path(name))  # a path is never an id


@pytest.mark.parametrize(
    "name",
    ["name", "a/b/c", "/a/b", "./a", "../a", "~/a", "a/", "/a", "a b/c", "a/b--c", "a/b..c", "ä/b", "a/b.git", ""],
)
def test_what_is_no_id(here, name):
    assert not hub.is_repo_id(name) and not hub.is_on_hub(name)


def test_what_lies_here_wins_and_a_mistyped_path_stays_off_the_network(here):
    (here / "outputs" / "digits").mkdir(parents=True)
    assert not hub.is_on_hub("outputs/digits")
    assert not hub.is_on_hub("outputs/digist")
    assert hub.local_folder("outputs/digist") == Path("outputs/digist")


def test_one_file_of_a_dataset_is_fetched(here, monkeypatch):
    asked = []

    def download(*args, **kwargs):
        asked.append((args, kwargs))
        return str(here / "cache" / "context.safetensors")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert hub.local_folder("user/name") == here / "cache"
    assert asked == [
        (("user/name", "context.safetensors"), {"repo_type": "dataset", "local_files_only": False}),
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RepositoryNotFoundError("x", response=ANSWER),
            r"^me/set: neither a folder here nor a dataset on the .*auth login",
        ),
        (GatedRepoError("x", response=ANSWER), r"^me/set: neither a folder here nor a dataset .* you may read"),
        (RemoteEntryNotFoundError("x", response=ANSWER), r"^me/set: this dataset .* holds no context\.safetensors"),
        (
            HfHubHTTPError("500 at\nhome.", response=ANSWER),
            r"^me/set: could not be fetched .*\(500 at home\)\. Run again",
        ),
        (OSError(28, "No space left on device"), r"^me/set: could not be fetched .*No space left on device"),
    ],
)
def test_what_goes_wrong_is_one_line(here, monkeypatch, error, message):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    with pytest.raises(UserError, match=message) as caught:
        hub.local_folder("me/set")
    assert "\n" not in str(caught.value)


def test_without_a_network_it_is_said_in_seconds_what_to_do(here, monkeypatch):
    """The client itself, with a cache that is empty and an address that nobody answers."""
    monkeypatch.setattr(hub, "reachable", assets.reachable)
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "cache"))
    start = time.monotonic()
    message = (
        r"^me/set: neither a folder here nor fetched before, .* is out of reach\. Name the folder .*hf download me/set "
    )
    with pytest.raises(UserError, match=message):
        hub.local_folder("me/set")
    assert time.monotonic() - start < 10


def test_what_was_fetched_before_needs_no_network(here, monkeypatch):
    """The layout of the client's own cache."""
    monkeypatch.setattr(hub, "reachable", lambda address: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "cache"))
    repo, commit = here / "cache" / "datasets--me--set", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "context.safetensors").write_bytes(b"x")
    assert hub.local_folder("me/set") == repo / "snapshots" / commit
