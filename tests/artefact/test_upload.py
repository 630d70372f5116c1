"""What `publish` lists, refuses and sends, with the Hub's client replaced."""

import shutil
import types
from unittest.mock import create_autospec

import pytest
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

import synthicl.artefact.upload as upload
from synthicl.artefact.card import card
from synthicl.artefact.context_set import ContextSet
from synthicl.artefact.upload import publish
from synthicl.cli.main import main
from synthicl.core.errors import UserError
from synthicl.tabicl.preprocessing import Preprocessing

NAMES = ["zebra", "[x]*", "Löwe 猫"]
FILES = {"README.md", "context.safetensors", "grid.png", *(f"images/{name}/000.png" for name in NAMES)}


@pytest.fixture
def run(tmp_path):
    """A finished run with what stays at home."""
    folder = tmp_path / "run"
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    context = ContextSet(torch.zeros(3, 5), torch.arange(3), NAMES, Preprocessing("raw", 1), images, {"dataset": "x"})
    context.save(folder)
    (folder / "README.md").write_text(card(context, ""), encoding="utf-8")
    for name in ("config.yaml", "results.json", "predictions.safetensors", "report.html", "images/zebra/notes.txt"):
        (folder / name).write_text("/home/me/secret")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_text("x")
    return folder


def client(there=None, private=True):
    """The Hub's client, whose methods take what the real ones take: ``asked`` keeps what would change something."""
    api, asked = create_autospec(HfApi, instance=True), []
    siblings = [types.SimpleNamespace(rfilename=name) for name in there or []]
    api.repo_exists.return_value = there is not None
    api.dataset_info.return_value = types.SimpleNamespace(private=private, siblings=siblings)
    api.create_repo.side_effect = lambda repo, *, repo_type, private: asked.append(("create", repo, repo_type, private))

    def commit(repo, operations, *, commit_message, repo_type):
        asked.append(("commit", repo, repo_type, operations))
        return types.SimpleNamespace(commit_url=f"https://huggingface.co/datasets/{repo}/commit/1")

    api.create_commit.side_effect = commit
    api.asked = asked
    return api


@pytest.fixture
def hub(monkeypatch):
    """A function that puts a client of one's own in place of the Hub's, logged in and within reach."""

    def put(api):
        monkeypatch.setattr(upload, "HfApi", lambda: api)
        monkeypatch.setattr(upload, "get_token", lambda: "hf_x")
        monkeypatch.setattr(upload, "reachable", lambda address: True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        return api

    return put


def test_without_being_told_to_nothing_is_sent(run, monkeypatch, capsys):
    for name in ("HfApi", "get_token", "reachable"):
        monkeypatch.setattr(upload, name, None)  # to call one is an error
    before = sorted(run.rglob("*"))
    assert main(["publish", str(run), "me/set"]) == 0
    out = capsys.readouterr().out
    listed = {line.partition(" kB  ")[2] for line in out.splitlines() if " kB  " in line}
    assert listed == FILES
    assert f"{(run / 'grid.png').stat().st_size / 1000:9.1f} kB  grid.png" in out
    assert "6 files, " in out
    assert "checkpoints, config.yaml, predictions.safetensors, report.html, results.json" in out
    assert (
        "Nothing was sent. Add --upload=true to send them to https://huggingface.co/datasets/me/set (private)." in out
    )
    assert sorted(run.rglob("*")) == before


def test_a_new_repository_is_private_and_gets_exactly_the_files_of_the_set(run, hub, capsys):
    api = hub(client())
    assert main(["publish", str(run), "me/set", "--upload=true"]) == 0
    created, (_, repo, kind, operations) = api.asked
    assert created == ("create", "me/set", "dataset", True)
    assert (repo, kind) == ("me/set", "dataset")
    assert all(isinstance(operation, CommitOperationAdd) for operation in operations)
    sent = {operation.path_in_repo: operation.path_or_fileobj for operation in operations}
    assert set(sent) == FILES
    assert sent["README.md"] == str(run / "README.md")
    assert "Sent: https://huggingface.co/datasets/me/set/commit/1" in capsys.readouterr().out


def test_it_is_public_if_one_says_so(run, hub):
    api = hub(client())
    publish(run, "me/set", upload=True, public=True)
    assert api.asked[0] == ("create", "me/set", "dataset", False)


def test_pictures_of_an_earlier_set_are_removed_and_nothing_else(run, hub):
    api = hub(client(there=["context.safetensors", "images/zebra/000.png", "images/zebra/001.png", "LICENSE"]))
    publish(run, "me/set", upload=True)
    ((_, _, _, operations),) = api.asked  # no repository is made
    gone = [operation.path_in_repo for operation in operations if isinstance(operation, CommitOperationDelete)]
    assert gone == ["images/zebra/001.png"]
    assert len(operations) == len(FILES) + 1


@pytest.mark.parametrize(
    ("api", "message"),
    [
        (client(there=["train.parquet"]), r"me/set: this repository holds something else\. Nothing was sent\."),
        (client(there=["context.safetensors"], private=False), r"me/set: everybody may read .* Add --public=true\."),
    ],
)
def test_a_repository_is_left_as_it_is(run, hub, api, message):
    hub(api)
    with pytest.raises(UserError, match=message):
        publish(run, "me/set", upload=True)
    assert api.asked == []


def test_without_a_token_it_is_said_how_to_get_one(run, monkeypatch):
    monkeypatch.setattr(upload, "get_token", lambda: None)
    with pytest.raises(UserError, match=r"nobody is logged in .* Run `hf auth login`, or set \$HF_TOKEN\."):
        publish(run, "me/set", upload=True)


def test_without_a_network_it_is_one_line(run, hub, monkeypatch):
    api = hub(client())
    monkeypatch.setattr(upload, "reachable", lambda address: False)
    with pytest.raises(UserError, match=r"the Hugging Face Hub \(https://.*\) is out of reach\. Nothing was sent\."):
        publish(run, "me/set", upload=True)
    assert api.asked == []


def test_what_the_hub_refuses_is_one_line(run, hub, capsys):
    api = hub(client())
    api.create_commit.side_effect = OSError("403 Forbidden:\nno write access.")
    assert main(["publish", str(run), "me/set", "--upload=true"]) == 2
    assert "error: me/set: the Hugging Face Hub refuses (403 Forbidden: no write access)." in capsys.readouterr().err


@pytest.mark.parametrize("repo", ["set", "a/b/c", "me/se t", "https://huggingface.co/me/set", "me/--"])
def test_names_that_are_no_repository(run, repo):
    with pytest.raises(UserError, match=r"not the id of a repository\. Write user/name"):
        publish(run, repo)


def spoil_image(run):
    shutil.copy(run / "images/zebra/000.png", run / "images/[x]*/000.png")


def spoil_tensors(run):
    content = bytearray((run / "context.safetensors").read_bytes())
    content[-5] ^= 1
    (run / "context.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda run: (run / "README.md").unlink(),
            r"README\.md: missing\. `synthicl compare .* writes the card anew\.",
        ),
        (
            lambda run: (run / "README.md").write_text("# A card"),
            r"README\.md: does not say which files are the dataset\.",
        ),
        (lambda run: (run / "README.md").write_text("---\na: [\n---\n"), r"README\.md: does not say which files"),
        (lambda run: (run / "grid.png").unlink(), r"grid\.png: missing"),
        (lambda run: (run / "images/zebra/000.png").unlink(), r"zebra/000\.png: not the image of context\.safetensors"),
        (spoil_image, r"000\.png: not the image of context\.safetensors"),
        (spoil_tensors, r"context\.safetensors: not a context set, or damaged \(.*checksum differs"),
        (lambda run: (run / "context.safetensors").unlink(), r"no context set there"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(run, spoil, message):
    spoil(run)
    with pytest.raises(UserError, match=message):
        publish(run, "me/set")


@pytest.mark.parametrize("path", ["/home/me/a.ckpt", "C:\\Users\\me", "~/models/a.ckpt", "/tmp/x"])
def test_places_on_this_machine_are_not_published(run, path):
    context = ContextSet.load(run)
    context.metadata["objective"] = f"InContext(checkpoints=[{path!r}])"
    context.save(run)
    with pytest.raises(
        UserError, match=r"context\.safetensors: names a place on this machine, .* Nothing is published"
    ):
        publish(run, "me/set")
    (run / "README.md").write_text(f"{card(context, '')}\nMade from {path}.\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"README\.md: names a place on this machine"):
        publish(run, "me/set")


def test_a_class_that_datasets_would_lose_is_refused(run):
    context = ContextSet.load(run)
    context.class_names[0] = "a::b"
    context.save(run)
    with pytest.raises(UserError, match=r"class 'a::b' would be lost, as `datasets` reads :: otherwise\. Rename it\."):
        publish(run, "me/set")


def test_the_command_line_says_what_is_missing(run, capsys):
    assert main(["publish", str(run)]) == 2
    assert "publish: a repository is required. Write synthicl publish outputs/digits/latest user/name" in (
        capsys.readouterr().err
    )
    assert main(["publish", "digits", "me/set"]) == 2
    assert "digits: no context set there" in capsys.readouterr().err
    assert main(["publish", str(run), "me/set", "--upload=yes please"]) == 2
    assert "upload" in capsys.readouterr().err
