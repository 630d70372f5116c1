import gzip
import io
import random
import tarfile
import zipfile

import pytest

from synthicl.core.assets import cache_dir
from synthicl.core.errors import UserError
from synthicl.data.archives import SUFFIXES, unpack, unpacked

FILES = {"set/train.txt": b"a\n", "set/deep/er/1.png": bytes(range(256)) * 20, "other/LICENSE": b"free"}


def tar(path, members, mode=""):
    """``members`` gives contents by name; a `tarfile.TarInfo` is a member of its own."""
    with tarfile.open(path, f"w:{mode}") as file:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                file.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_500_000_000
            file.addfile(info, io.BytesIO(content))


def pack(path, members):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name), content)
    else:
        tar(path, members, "" if path.suffix == ".tar" else "gz")
    return path


def pick(content):
    return content / "set"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=SUFFIXES)
def archive(request, tmp_path):
    return pack(tmp_path / f"a{request.param}", FILES)


def test_what_is_wanted_lies_in_its_folder(archive, tmp_path, capsys):
    folder = tmp_path / "there" / "set"
    unpack(archive, folder, "a set", pick)
    assert contents(folder) == {"train.txt": b"a\n", "deep/er/1.png": FILES["set/deep/er/1.png"]}
    assert [path.name for path in folder.parent.iterdir()] == ["set"]
    assert capsys.readouterr().out == f"Unpacking {archive}\n"


def test_the_format_is_that_of_the_content_not_of_the_name(archive, tmp_path):
    renamed = archive.rename(tmp_path / "a.bin")
    unpack(renamed, tmp_path / "set", "a set", pick)
    assert (tmp_path / "set/train.txt").read_bytes() == b"a\n"


def test_times_of_files_are_kept(archive, tmp_path):
    """Embeddings are filed under them: unpacked again, they are found again."""
    times = []
    for name in ("one", "two"):
        unpack(archive, tmp_path / name, "a set", pick)
        times.append((tmp_path / name / "train.txt").stat().st_mtime)
    assert times[0] == times[1] < 1_600_000_000


def test_a_folder_that_another_process_unpacked_first_is_kept(archive, tmp_path):
    def slow(content):
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "theirs").touch()
        return content / "set"

    unpack(archive, tmp_path / "set", "a set", slow)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["theirs"]


def refused(archive, message):
    folder = archive.parent / "unpacked"
    folder.mkdir()
    line = rf"^{archive}: damaged, or not a set \(.*{message}.*\)\. Delete it and run again\.$"
    with pytest.raises(UserError, match=line):
        unpack(archive, folder / "set", "a set", pick)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["../evil", "set/../../evil", "/evil", "set/..\\..\\evil", "C:\\evil"])
def test_nothing_leaves_the_folder(tmp_path, suffix, name):
    refused(pack(tmp_path / f"a{suffix}", {**FILES, name: b"x"}), "lies outside it")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_tar_with_a_link_or_device(tmp_path, kind):
    member = tarfile.TarInfo("set/link")
    member.type, member.linkname = kind, "train.txt"
    refused(pack(tmp_path / "a.tar", {**FILES, "set/link": member}), "set/link is no plain file")


def test_zip_with_a_link(tmp_path):
    member = zipfile.ZipInfo("set/link")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    refused(pack(tmp_path / "a.zip", {**FILES, member: b"/etc/passwd"}), "set/link is no plain file")


def test_zip_with_a_password(tmp_path):
    archive = pack(tmp_path / "a.zip", FILES)
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag in both headers of the first member
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)
    refused(archive, "encrypted")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("members", [{"set": b"", "set/x": b""}, {"set/x/y": b"", "set/x": b""}])
def test_names_that_contradict_each_other(tmp_path, suffix, members):
    refused(pack(tmp_path / f"a{suffix}", members), "set")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_something_else(tmp_path, suffix):
    refused(pack(tmp_path / f"a{suffix}", {"other/x": b""}), "there is no a set in it")


@pytest.mark.parametrize("content", [b"", b"P", b"PK", b"PK\x03\x04", b"\x1f\x8b", b"text", bytes(20)])
def test_no_archive(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "")


@pytest.mark.parametrize("block", range(1, 20))
def test_tar_that_breaks_off_between_blocks(tmp_path, block):
    archive = pack(tmp_path / "a.tar", FILES)
    archive.write_bytes(archive.read_bytes()[: 512 * block])
    complete = 512 * (2 + 1 + 10 + 2)  # header and content of each file; the block of zeros that ends it comes next
    if 512 * block > complete:
        unpack(archive, tmp_path / "set", "a set", pick)
    else:
        refused(archive, "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_leaves_nothing_and_raises_nothing_but_the_message(tmp_path, suffix):
    whole = pack(tmp_path / f"a{suffix}", FILES).read_bytes()
    archive, folder = tmp_path / f"b{suffix}", tmp_path / "unpacked" / "set"
    draw, refusals = random.Random(0), 0
    for trial in range(300):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            del damaged[draw.randrange(len(whole)) :]
        else:
            for _ in range(draw.choice([1, 3, 30])):
                damaged[draw.randrange(len(whole))] = draw.randrange(256)
        archive.write_bytes(damaged)
        try:
            unpack(archive, folder, "a set", pick)
        except UserError as error:
            refusals += 1
            assert "\n" not in str(error)
            assert not list(folder.parent.iterdir())
        else:
            for path in folder.parent.rglob("*"):
                if path.is_file():
                    path.unlink()
            for path in sorted(folder.parent.rglob("*"), reverse=True):
                path.rmdir()
    assert refusals > 50
    assert {path.name for path in tmp_path.iterdir()} == {f"a{suffix}", f"b{suffix}", "unpacked"}


def test_damaged_header_in_the_middle_of_a_tar_is_seen(tmp_path):
    archive = pack(tmp_path / "a.tar", FILES)
    content = bytearray(archive.read_bytes())
    content[1024] ^= 255  # the second header: tarfile takes it for the end
    archive.write_bytes(content)
    refused(archive, "it breaks off")


def test_flipped_checksum_of_a_gzip_is_seen(tmp_path):
    content = bytearray(gzip.compress(pack(tmp_path / "a.tar", FILES).read_bytes()))
    content[-8] ^= 255
    (tmp_path / "a.tgz").write_bytes(content)
    refused(tmp_path / "a.tgz", "CRC check failed")


def test_cache_holds_each_archive_once(archive, tmp_path, capsys):
    first, again = (unpacked(archive, "a set", pick) for _ in range(2))
    assert first == again
    assert first.parent == cache_dir() / "datasets"
    assert contents(first)["train.txt"] == b"a\n"
    assert capsys.readouterr().out.count("Unpacking") == 1
    pack(archive, {**FILES, "set/train.txt": b"changed\n"})
    assert contents(unpacked(archive, "a set", pick))["train.txt"] == b"changed\n"
    elsewhere = pack(tmp_path / f"other{archive.suffix}", FILES)
    assert len({first, unpacked(archive, "a set", pick), unpacked(elsewhere, "a set", pick)}) == 3


def test_archive_in_a_place_that_is_read_only(archive, tmp_path):
    before = set(tmp_path.iterdir())
    tmp_path.chmod(0o555)
    try:
        assert contents(unpacked(archive, "a set", pick))["train.txt"] == b"a\n"
    finally:
        tmp_path.chmod(0o755)
    assert set(tmp_path.iterdir()) == before


def test_message_when_the_folder_cannot_be_written(archive, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/set: cannot be written \(.*\)\. Choose another folder"):
        unpack(archive, tmp_path / "file" / "set", "a set", pick)


def test_message_when_the_archive_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"^.*gone\.zip: cannot be read \(No such file or directory\)\. Change its"):
        unpack(tmp_path / "gone.zip", tmp_path / "set", "a set", pick)
