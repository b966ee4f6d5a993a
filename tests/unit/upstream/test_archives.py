"""Archives of strangers: refused before a byte lands, or unpacked whole."""

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from wavbench.upstream.archives import check, unpack
from wavbench.upstream.errors import UserError


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


def entry(name: str, data: bytes = b"sound", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data if kind == tarfile.REGTYPE else b""


GOOD = entry("corpus/a.wav")


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def zip_info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def overlapping(path: Path) -> Path:
    """Two names in the directory of a zip that point at the same bytes."""
    zipped(path, ("a.wav", b"0" * 5_000), ("b.wav", b"1" * 5_000))
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    name = data.index(b"a.wav")
    assert name
    path.write_bytes(data)
    return path


def encrypted(path: Path) -> Path:
    zipped(path, ("a.wav", b"sound"))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


def huge_header(path: Path) -> Path:
    """A member whose extended header says that it is 40 GB long: libraries read headers whole."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 40 << 30
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16))
    return path


def claims_much(path: Path) -> Path:
    info = tarfile.TarInfo("a.wav")
    info.size = 40 << 40
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16))
    return path


def damaged(path: Path) -> Path:
    """A header in the middle that is broken, which some readers take for the end."""
    tar(path, GOOD, entry("b.wav"), entry("c.wav"), mode="w")
    data = bytearray(path.read_bytes())
    data[1_024 + 10] ^= 0xFF
    path.write_bytes(data)
    return path


def cut(path: Path) -> Path:
    tar(path, entry("a.wav", os.urandom(200_000)))
    path.write_bytes(path.read_bytes()[:100_000])
    return path


def wrong_checksum(path: Path) -> Path:
    zipped(path, ("a.wav", b"sound" * 100))
    data = bytearray(path.read_bytes())
    data[14] ^= 0xFF  # of the local header
    at = data.rindex(b"PK\x01\x02") + 16
    data[at] ^= 0xFF
    path.write_bytes(data)
    return path


def sparse(path: Path) -> Path:
    info = tarfile.TarInfo("a.wav")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,5"}
    return tar(path, (info, b""))


HOSTILE: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "an absolute path": ("a.tar.gz", lambda p: tar(p, GOOD, entry("/tmp/evil.wav"))),
    "a parent path": ("a.tar.gz", lambda p: tar(p, GOOD, entry("../evil.wav"))),
    "a parent path within": ("a.tar.gz", lambda p: tar(p, GOOD, entry("corpus/x/../../../evil.wav"))),
    "a symbolic link": ("a.tar.gz", lambda p: tar(p, GOOD, entry("link", kind=tarfile.SYMTYPE, link="/etc"))),
    "a link inside the archive": ("a.tar.gz", lambda p: tar(p, GOOD, entry("b", kind=tarfile.SYMTYPE, link="corpus"))),
    "a hard link": ("a.tar.gz", lambda p: tar(p, GOOD, entry("b", kind=tarfile.LNKTYPE, link="corpus/a.wav"))),
    "a character device": ("a.tar.gz", lambda p: tar(p, GOOD, entry("zero", kind=tarfile.CHRTYPE))),
    "a block device": ("a.tar.gz", lambda p: tar(p, GOOD, entry("disk", kind=tarfile.BLKTYPE))),
    "a named pipe": ("a.tar", lambda p: tar(p, GOOD, entry("pipe", kind=tarfile.FIFOTYPE), mode="w")),
    "a sparse file": ("a.tar", lambda p: sparse(p)),
    "zeros that fill the disk": ("a.tar.gz", lambda p: tar(p, GOOD, entry("b.wav", bytes(80 << 20)))),
    "a size without bytes": ("a.tar", claims_much),
    "a header of many gigabytes": ("a.tar", huge_header),
    "two members of one name": ("a.tar.bz2", lambda p: tar(p, GOOD, GOOD, mode="w:bz2")),
    "names that differ in case": ("a.tar.xz", lambda p: tar(p, GOOD, entry("corpus/A.WAV"), mode="w:xz")),
    "a file where a folder is": ("a.tar.gz", lambda p: tar(p, GOOD, entry("corpus"))),
    "a folder where a file is": ("a.tar.gz", lambda p: tar(p, entry("corpus"), GOOD)),
    "control characters": ("a.tar.gz", lambda p: tar(p, GOOD, entry("corpus/\x1b[2Jb.wav"))),
    "a name that is too long": ("a.tar.gz", lambda p: tar(p, GOOD, entry("x" * 300 + ".wav"))),
    "a damaged header in the middle": ("a.tar", damaged),
    "an archive that is cut off": ("a.tar.gz", cut),
    "a parent path in a zip": ("a.zip", lambda p: zipped(p, ("ok.wav", b"x"), ("../evil.wav", b"x"))),
    "an absolute path in a zip": ("a.zip", lambda p: zipped(p, ("ok.wav", b"x"), ("/tmp/evil.wav", b"x"))),
    "a path of Windows in a zip": ("a.zip", lambda p: zipped(p, ("ok.wav", b"x"), ("C:/evil.wav", b"x"))),
    "backslashes in a zip": ("a.zip", lambda p: zipped(p, ("ok.wav", b"x"), ("..\\evil.wav", b"x"))),
    "a link in a zip": ("a.zip", lambda p: zipped(p, ("ok.wav", b"x"), (zip_info("link", 0o120777), b"/etc/passwd"))),
    "a device in a zip": ("a.zip", lambda p: zipped(p, ("ok.wav", b"x"), (zip_info("zero", 0o020666), b""))),
    "zeros in a zip": ("a.zip", lambda p: zipped(p, ("ok.wav", b"x"), ("b.wav", bytes(80 << 20)))),
    "members that overlap in a zip": ("a.zip", overlapping),
    "an encrypted zip": ("a.zip", encrypted),
    "a zip with a wrong checksum": ("a.zip", wrong_checksum),
    "no archive at all": ("a.tar.gz", lambda p: p.write_bytes(b"<html>log in</html>") and p),
    "an empty archive": ("a.tar.gz", lambda p: tar(p)),
}


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_before_a_byte_lands_anywhere(kind: str, tmp_path: Path) -> None:
    name, make = HOSTILE[kind]
    path = make(tmp_path / name)
    into = tmp_path / "corpora" / "here"
    into.mkdir(parents=True)
    before = everything_in(tmp_path)
    with pytest.raises(UserError) as caught:
        unpack(path, into)
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert everything_in(tmp_path) == before
    assert not Path("/tmp/evil.wav").exists()


def test_there_are_more_than_twenty_kinds_of_them() -> None:
    assert len(HOSTILE) > 20


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_a_tar_is_unpacked_with_plain_permissions(name: str, tmp_path: Path) -> None:
    folder = entry("./corpus", kind=tarfile.DIRTYPE)
    program = entry("./corpus/a.wav", b"one")
    program[0].mode = 0o4777
    kind = name.rpartition(".")[2]
    path = tar(
        tmp_path / name, folder, program, entry("corpus/ü b.wav", b"two"), mode="w" if kind == "tar" else f"w:{kind}"
    )
    told = []
    members = unpack(path, tmp_path / "into", progress=lambda done, total: told.append((done, total)))
    assert [(m.name, m.size) for m in members] == [("corpus/a.wav", 3), ("corpus/ü b.wav", 3)]
    assert (tmp_path / "into/corpus/a.wav").read_bytes() == b"one"
    assert (tmp_path / "into/corpus/ü b.wav").read_bytes() == b"two"
    assert (tmp_path / "into/corpus/a.wav").stat().st_mode & 0o7111 == 0
    assert told[-1] == (2, 2)


def test_a_zip_is_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("corpus/", b""), ("corpus/a.wav", b"one"), ("b.txt", b"two"))
    assert [m.name for m in unpack(path, tmp_path / "into")] == ["corpus/a.wav", "b.txt"]
    assert (tmp_path / "into/corpus/a.wav").read_bytes() == b"one"


def test_unpacking_again_mends_what_was_half_written(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar.gz", GOOD)
    unpack(path, tmp_path / "into")
    (tmp_path / "into/corpus/a.wav").write_bytes(b"so")
    unpack(path, tmp_path / "into")
    assert (tmp_path / "into/corpus/a.wav").read_bytes() == b"sound"


def test_a_link_that_lies_in_the_target_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "into").mkdir()
    (tmp_path / "into/corpus").symlink_to(outside)
    for name in ("corpus/a.wav", "corpus/inner/a.wav"):
        with pytest.raises(UserError, match="a link lies where"):
            unpack(tar(tmp_path / "a.tar.gz", entry(name)), tmp_path / "into")
        assert list(outside.iterdir()) == []


def test_a_file_link_in_the_target_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "into/corpus").mkdir(parents=True)
    (tmp_path / "into/corpus/a.wav").symlink_to(victim)
    unpack(tar(tmp_path / "a.tar.gz", GOOD), tmp_path / "into")
    assert victim.read_text() == "mine"
    assert (tmp_path / "into/corpus/a.wav").read_bytes() == b"sound"


def test_a_limit_that_the_corpus_states_holds(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar.gz", GOOD, entry("b.wav", bytes(1_000)))
    with pytest.raises(UserError, match="more than"):
        check(path, limit=1_000)
    assert len(check(path, limit=1_005)) == 2
