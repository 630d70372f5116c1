import errno
import os
from pathlib import Path

import pytest

from synthicl.core.errors import UserError
from synthicl.core.files import lies_inside, safe_folder_name, stays_inside, write_whole


def raises(error):
    def write(path):
        path.write_text("half of it")
        raise error

    return write


def test_writes_into_folders_that_are_not_there_yet(tmp_path):
    path = tmp_path / "new" / "deeper" / "x.txt"
    write_whole(path, lambda target: target.write_text("all of it"))
    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


def test_temporary_name_keeps_the_suffix(tmp_path):
    """Writers such as Pillow's go by it."""
    write_whole(tmp_path / "x.png", lambda target: target.write_text(target.suffix))
    assert (tmp_path / "x.png").read_text() == ".png"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), ValueError("bug"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", ["old", None])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error, old):
    path = tmp_path / "x.txt"
    if old:
        path.write_text(old)
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        write_whole(path, raises(error))
    assert [file.read_text() for file in tmp_path.iterdir()] == ([old] if old else [])


def test_message_when_the_disk_is_full(tmp_path):
    message = r"x\.txt: the disk is full\. Nothing was half-written; free some space and run again\."
    with pytest.raises(UserError, match=message):
        write_whole(tmp_path / "x.txt", raises(OSError(errno.ENOSPC, "No space left on device")))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_message_when_a_real_device_is_full(tmp_path):
    def write(target):
        target.unlink()
        target.symlink_to("/dev/full")
        target.write_bytes(bytes(10_000))

    with pytest.raises(UserError, match="the disk is full"):
        write_whole(tmp_path / "x.bin", write)
    assert not list(tmp_path.iterdir())


def test_message_when_the_folder_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("x")
    with pytest.raises(UserError, match=r"runs/x\.txt: cannot be written \(.*\)\. Choose another folder or its perm"):
        write_whole(tmp_path / "runs" / "x.txt", lambda target: target.write_text("x"))


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_an_ordinary_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "x.txt", lambda target: target.write_text("x"))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("name", ["cat", "English springer", "Löwe", "猫", ".hidden", "a.b", "x" * 200])
def test_names_that_can_be_folders(tmp_path, name):
    assert safe_folder_name(name) == name
    (tmp_path / name).mkdir()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\\b", "a\0b", "x" * 201, "ö" * 101, "caf\udce9"])
def test_message_for_names_that_cannot(name):
    with pytest.raises(UserError, match=r"class name '.*' cannot be a folder's name \(.*\)\. Rename it\.") as caught:
        safe_folder_name(name)
    assert repr(name) in str(caught.value)
    str(caught.value).encode()  # it can be printed


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "./a", "...", "a..b", ".hidden", "a/./b"])
def test_paths_that_stay_inside(name):
    assert stays_inside(name)


@pytest.mark.parametrize("name", ["/a", "..", "a/../b", "../a", "\\a", "a\\..\\b", "C:\\a", "C:a", "\\\\host\\share"])
def test_paths_that_do_not(name):
    assert not stays_inside(name)


def test_where_a_path_leads_is_what_counts(tmp_path, monkeypatch):
    folder, other = tmp_path / "in", tmp_path / "in and out"
    for place in (folder, other):
        place.mkdir()
        (place / "a.png").touch()
    (folder / "link.png").symlink_to(other / "a.png")
    (folder / "circle").symlink_to(folder / "circle")
    (tmp_path / "also in").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(folder)
    for path in ("a.png", folder / "a.png", folder / "gone.png", other / ".." / "in" / "a.png", tmp_path / "also in"):
        assert lies_inside(path, folder) and lies_inside(path, tmp_path / "also in")
    refused = [other / "a.png", folder / "link.png", folder / ".." / "in and out" / "a.png", "../in and out/a.png"]
    for path in [*refused, "/etc/hostname", "a\0.png", "http://127.0.0.1/a.png/../../../../../x"]:
        assert not lies_inside(path, folder)
    for path in (folder / "circle", folder / "circle" / "a.png"):
        lies_inside(path, folder)  # raises nothing; where it leads depends on the version of Python
